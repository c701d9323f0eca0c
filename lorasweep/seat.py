"""What the driver deals with: workers in their seats, and whoever watches."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from lorasweep.executors.base import Executor
from lorasweep.grammar import Scalar
from lorasweep.result import Command, Event, Progress, Rung, Start, TrialResult


class Display(Protocol):
    """What is shown while a sweep runs."""

    def begin(self, num_trials: int, done: Sequence[TrialResult]) -> None: ...

    def started(self, number: int, params: Mapping[str, Scalar]) -> None: ...

    def progress(self, event: Progress) -> None: ...

    def rung(self, event: Rung) -> None: ...

    def finished(self, result: TrialResult) -> None: ...

    def say(self, text: str) -> None: ...

    def end(self) -> None: ...


@dataclass(eq=False)
class Seat:
    """An executor with what it is doing. `room` says how many bytes it may use now; None: nobody can tell.

    `reopen` makes another executor, where a worker's death is not the driver's.
    """

    executor: Executor
    num_slots: int
    device: str
    kind: str = "cpu"
    room: Callable[[], float | None] = lambda: None
    full_since_s: float | None = None
    reopen: "Callable[[], Executor] | None" = None
    base: str = ""
    live: dict[int, Start] = field(default_factory=dict)
    orders: list[Command] = field(default_factory=list)
    answer: "Future[list[Event]] | None" = None
    is_lost: bool = False
    num_deaths: int = 0  # in a row
    ready_s: float = 0.0
    longest_s: float = 0.0  # that it took to answer, where no base had to be loaded
    _asked_s: float = 0.0
    _may_load: bool = False

    @property
    def num_free(self) -> int:
        return self.num_slots - len(self.live)

    @property
    def is_ready(self) -> bool:
        return time.monotonic() >= self.ready_s

    def submit(self, commands: Sequence[Command]) -> None:
        """Tell the worker to go on; its answer is to come."""
        if self.is_lost:
            assert self.reopen is not None
            self.executor, self.is_lost = self.reopen(), False
        self._asked_s, self._may_load = time.monotonic(), any(isinstance(c, Start) for c in commands)
        self.answer = self.executor.submit(commands)

    def take_answer(self) -> "list[Event]":
        """Return what the worker says; whatever its process died of is raised."""
        assert self.answer is not None
        answer, self.answer = self.answer, None
        events = answer.result()
        if not self._may_load:
            self.longest_s = max(self.longest_s, time.monotonic() - self._asked_s)
        self.num_deaths = 0
        return events

    def silence_s(self, least_s: float) -> float:
        """Return for how long it has been silent, 0 while that may still be work."""
        silent = time.monotonic() - self._asked_s
        # A trial that starts may have to fetch its base first.
        allowed = max(least_s * (LOADING if self._may_load else 1), PATIENCE * self.longest_s)
        return silent if self.answer is not None and silent > allowed else 0.0

    def bury(self) -> list[Start]:
        """End the worker, whatever is left of it, and rest before the next; return the trials that it had."""
        self.executor.close()
        orphans = list(self.live.values())
        self.live, self.orders, self.answer, self.is_lost = {}, [], None, True
        self.ready_s = time.monotonic() + min(60.0, 2.0**self.num_deaths - 0.9)
        self.num_deaths += 1
        return orphans


PATIENCE = 20  # times its longest answer that a worker may be silent
LOADING = 6
