"""What an executor promises."""

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Protocol

from lorasweep.core.result import Command, Event


class Executor(Protocol):
    """One worker, somewhere: in process `pid`, None before it has begun.

    `submit` is `Worker.advance` with its answer to come; one call at a time.
    """

    @property
    def pid(self) -> int | None: ...

    @property
    def exit_code(self) -> int | None:
        """Return how the worker's process ended, below 0 by which signal; None where it lives or cannot be told."""
        ...

    def submit(self, commands: Sequence[Command]) -> "Future[list[Event]]": ...

    def close(self) -> None: ...
