"""What an executor promises."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Protocol

from lorasweep.core.messages import Command, Event

SIGNALS_FROM_OUTSIDE = (1, 2, 9, 15)  # HUP, INT, KILL, TERM: a program that crashes gets other signals


class WorkerDied(Exception):
    """A worker's process ended. `exit_code` is negative for a signal, None where it cannot be told."""

    def __init__(self, exit_code: Callable[[], int | None]) -> None:
        super().__init__("the worker's process ended")
        self._exit_code = exit_code

    @property
    def is_from_outside(self) -> bool:
        """Tell whether another process ended it: the system for lack of memory, a scheduler, a user."""
        return -(self._exit_code() or 0) in SIGNALS_FROM_OUTSIDE

    @property
    def reason(self) -> str:
        """Return how the process ended, as the end of a sentence that begins with the worker."""
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
    """Runs one worker somewhere: in this process, in another one, on another machine."""

    def submit(self, commands: Sequence[Command]) -> "Future[list[Event]]":
        """Call `Worker.advance`; one call at a time. `WorkerDied` is raised here or by the future."""
        ...

    def free_bytes(self) -> float | None:
        """Return the device memory that the worker may use now, its own included; None where it cannot be told."""
        ...

    def close(self) -> None:
        """End the worker and all that it started, whatever it is doing."""
        ...
