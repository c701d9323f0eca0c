"""Run the worker in this process."""

import os
from collections.abc import Sequence
from concurrent.futures import Future

from lorasweep.core.messages import Command, Event, WorkerSettings
from lorasweep.devices.devices import Device, free_bytes
from lorasweep.worker.worker import Worker


class InlineExecutor:
    """Runs the worker in the driver's process: starts at once and is easy to debug."""

    def __init__(self, settings: WorkerSettings, device: Device | None = None) -> None:
        self.worker, self.device = Worker(settings), device

    def submit(self, commands: Sequence[Command]) -> "Future[list[Event]]":
        """Call the worker and return its events in a finished future."""
        future: Future[list[Event]] = Future()
        future.set_result(self.worker.advance(commands))
        return future

    def free_bytes(self) -> float | None:
        """Return the memory that this process may use on the device; None if unknown."""
        return free_bytes(self.device, os.getpid()) if self.device else None

    def close(self) -> None:
        """Do nothing: the worker ends with this process."""
