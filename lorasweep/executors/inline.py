"""The simplest executor: the worker in this very process."""

import os
from collections.abc import Sequence
from concurrent.futures import Future

from lorasweep.core.result import Command, Event, WorkerSettings
from lorasweep.worker.worker import Worker


class InlineExecutor:
    """The worker in the driver's process: nothing to start, easy to debug."""

    def __init__(self, settings: WorkerSettings) -> None:
        self.worker = Worker(settings)

    @property
    def pid(self) -> int:
        """Return the process that the worker lives in."""
        return os.getpid()

    @property
    def exit_code(self) -> None:
        """Return None: this process lives."""

    def submit(self, commands: Sequence[Command]) -> "Future[list[Event]]":
        future: Future[list[Event]] = Future()
        future.set_result(self.worker.advance(commands))
        return future

    def close(self) -> None:
        """There is nothing to end."""
