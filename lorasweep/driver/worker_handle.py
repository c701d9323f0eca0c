"""What the driver deals with: workers in their seats, and whoever watches."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from lorasweep.config.grammar import Scalar
from lorasweep.core.result import Command, Event, Progress, Rung, Start, TrialResult
from lorasweep.executors.base import Executor


class Display(Protocol):
    """What is shown while a sweep runs."""

    def begin(self, num_trials: int, done: Sequence[TrialResult]) -> None: ...

    def started(self, number: int, params: Mapping[str, Scalar]) -> None: ...

    def progress(self, event: Progress) -> None: ...

    def rung(self, event: Rung) -> None: ...

    def finished(self, result: TrialResult) -> None: ...

    def say(self, text: str) -> None: ...

    def end(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A device failed under these trials; `is_outside` where its worker was ended by a signal that others send."""

    reason: str
    numbers: frozenset[int]
    is_outside: bool = False


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
    failures: list[Failure] = field(default_factory=list)  # since a trial last reached a rung or its end here
    ready_s: float = 0.0
    longest_s: float = 0.0  # that it took to answer, where no base had to be loaded
    _asked_s: float = 0.0
    _may_load: bool = False

    @property
    def num_free(self) -> int:
        return (1 if self.is_benched else self.num_slots) - len(self.live)

    @property
    def is_benched(self) -> bool:
        """Tell whether the device failed too often in a row: then it gets one trial at a time, after growing pauses."""
        return len(self.failures) >= BENCHED_AFTER

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
        return events

    def silence_s(self, least_s: float) -> float:
        """Return for how long it has been silent, 0 while that may still be work."""
        silent = time.monotonic() - self._asked_s
        # A trial that starts may have to fetch its base first.
        allowed = max(least_s * (LOADING if self._may_load else 1), PATIENCE * self.longest_s)
        return silent if self.answer is not None and silent > allowed else 0.0

    def fail(self, reason: str, *, is_outside: bool = False) -> list[Start]:
        """End the worker and pause before the next one starts; return the trials that it had."""
        self.executor.close()
        orphans = list(self.live.values())
        self.live, self.orders, self.answer, self.is_lost, self.base = {}, [], None, True, ""
        self.ready_s = time.monotonic() + self.pause_s
        self.failures.append(
            Failure(reason=reason, numbers=frozenset(s.number for s in orphans), is_outside=is_outside)
        )
        return orphans

    @property
    def pause_s(self) -> float:
        """Return how long the device rests after its next failure: 0.1 s, 1.1, 3.1, 7.1, ... up to half an hour."""
        return min(LONGEST_PAUSE_S, 2.0 ** min(len(self.failures), 30) - 0.9)

    def has_failed_under(self, number: int) -> bool:
        """Tell whether the device failed under a trial since it last worked."""
        return any(number in failure.numbers for failure in self.failures)

    def recover(self) -> list[Failure]:
        """Note that the device works; return the failures before that, which were therefore not the device's."""
        failures, self.failures = self.failures, []
        return failures


BENCHED_AFTER = 2  # failures in a row
LONGEST_PAUSE_S = 1800.0
PATIENCE = 20  # times its longest answer that a worker may be silent
LOADING = 6
