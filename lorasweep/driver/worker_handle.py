"""The driver's view of a worker: its executor, its live trials, and the failures of its device."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from lorasweep.core.messages import Command, Event, Evicted, Finished, Rung, Start
from lorasweep.core.result import NOT_FINITE, TrialResult, TrialState
from lorasweep.core.trial import Trial
from lorasweep.driver.failures import UNRELIABLE_AFTER, Failure, last_line
from lorasweep.executors.base import Executor

MAX_PAUSE_S = 1800.0
HANG_FACTOR = 20  # a call that takes this many times the longest call so far has hung
LOADING_FACTOR = 6  # more time for a call that may load a base


@dataclass(eq=False)
class WorkerHandle:
    """One worker on one device. `restart` returns a new executor after a failure."""

    executor: Executor
    num_slots: int
    device: str
    kind: str = "cpu"  # or cuda
    restart: Callable[[], Executor] | None = None
    base: str = ""  # the key of the worker's loaded base
    live: dict[int, Trial] = field(default_factory=dict)
    pending: list[Command] = field(default_factory=list)  # sent with the next call
    answer: "Future[list[Event]] | None" = None  # of the call in progress
    is_closed: bool = False
    failures: list[Failure] = field(default_factory=list)  # since a trial last reached a rung or its end here
    ready_s: float = 0.0  # no trial starts before this time
    last_error: str = ""  # reason of the consecutive failed trials
    num_same_errors: int = 0
    longest_s: float = 0.0  # longest call that loaded no base
    _submitted_s: float = 0.0
    _may_load: bool = False

    @property
    def num_free(self) -> int:
        """Return how many more trials the worker may get now."""
        return (1 if self.is_unreliable else self.num_slots) - len(self.live)

    @property
    def is_unreliable(self) -> bool:
        """Return whether the device failed repeatedly: it then gets one trial at a time, after growing pauses."""
        return len(self.failures) >= UNRELIABLE_AFTER

    @property
    def is_ready(self) -> bool:
        return time.monotonic() >= self.ready_s

    @property
    def pause_s(self) -> float:
        """Return how long the device pauses after its next failure: 0.1 s, 1.1, 3.1, 7.1, ... up to half an hour."""
        return min(MAX_PAUSE_S, 2.0 ** min(len(self.failures), 30) - 0.9)

    def submit(self, commands: Sequence[Command]) -> None:
        """Call the worker; start a new one if the last was closed."""
        if self.is_closed:
            assert self.restart is not None
            self.executor, self.is_closed = self.restart(), False
        self._submitted_s, self._may_load = time.monotonic(), any(isinstance(c, Start) for c in commands)
        self.answer = self.executor.submit(commands)

    def result(self) -> list[Event]:
        """Return the events of the finished call.

        Raises:
            WorkerDied: the worker's process ended.
        """
        assert self.answer is not None
        answer, self.answer = self.answer, None
        events = answer.result()
        if not self._may_load:
            self.longest_s = max(self.longest_s, time.monotonic() - self._submitted_s)
        return events

    def is_current(self, event: Event) -> bool:
        """Return whether an event is from the trial's current attempt; events from earlier attempts are ignored."""
        if not isinstance(event, Rung | Finished | Evicted):
            return True
        trial = self.live.get(event.number)
        return trial is not None and trial.attempt == event.attempt

    def hung_s(self, least_s: float) -> float:
        """Return for how many seconds the current call has hung, 0 if it may still be working."""
        elapsed = time.monotonic() - self._submitted_s
        allowed = max(least_s * (LOADING_FACTOR if self._may_load else 1), HANG_FACTOR * self.longest_s)
        return elapsed if self.answer is not None and elapsed > allowed else 0.0

    def fail(self, reason: str, *, is_from_outside: bool = False) -> list[Trial]:
        """Close the worker and pause before the next one starts; return its live trials."""
        self.executor.close()
        trials = list(self.live.values())
        self.live, self.pending, self.answer, self.is_closed, self.base = {}, [], None, True, ""
        self.ready_s = time.monotonic() + self.pause_s
        numbers = frozenset(trial.number for trial in trials)
        self.failures.append(Failure(reason=reason, numbers=numbers, is_from_outside=is_from_outside))
        return trials

    def has_failed_under(self, number: int) -> bool:
        """Return whether the device failed with a trial since it last worked."""
        return any(number in failure.numbers for failure in self.failures)

    def recover(self) -> list[Failure]:
        """Clear the failures because the device works; return them, because the device did not cause them."""
        failures, self.failures = self.failures, []
        return failures

    def count_errors(self, result: TrialResult) -> None:
        """Count consecutive trials that failed here for the same reason."""
        reason = last_line(result.reason) if result.state is TrialState.FAILED else ""
        if reason.startswith(NOT_FINITE):  # depends on the trial's settings only
            return
        self.num_same_errors = self.num_same_errors + 1 if reason == self.last_error else 1
        self.last_error = reason
