"""The interface of executors."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Protocol

from lorasweep.core.messages import Command, Event

SIGNALS_FROM_OUTSIDE = (1, 2, 9, 15)  # HUP, INT, KILL, TERM: a crash raises other signals


class WorkerDied(Exception):
    """A worker's process ended. `exit_code` returns a negative number for a signal, None if unknown."""

    def __init__(self, exit_code: Callable[[], int | None]) -> None:
        super().__init__("the worker's process ended")
        self._exit_code = exit_code

    @property
    def is_from_outside(self) -> bool:
        """Return whether another process ended it: the system for lack of memory, a scheduler, or a user."""
        return -(self._exit_code() or 0) in SIGNALS_FROM_OUTSIDE

    @property
    def reason(self) -> str:
        """Return how the process ended, as a predicate such as "died (exit code 1)"."""
        code = self._exit_code()
        if code is None:
            return "died"
        if code >= 0:
            return f"died (exit code {code})"
        if not self.is_from_outside:
            return f"died (signal {-code})"
        cause = ", by the system for lack of memory or by a user" if code == -9 else ""
        return f"was killed from outside (signal {-code}{cause})"


class Executor(Protocol):
    """Runs one worker: in this process, in another process, or on another machine."""

    def submit(self, commands: Sequence[Command]) -> "Future[list[Event]]":
        """Call `Worker.advance`, one call at a time. `WorkerDied` is raised here or by the future."""
        ...

    def free_bytes(self) -> float | None:
        """Return the device memory that the worker may use now, including its own; None if unknown."""
        ...

    def close(self) -> None:
        """End the worker; kill its process, if it has one, and all that it started."""
        ...
