"""A worker as the driver sees it: its executor, its live trials, and whether its device can be relied on."""

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
HANG_FACTOR = 20  # times its longest call so far that a call may take before the worker is taken for hung
LOADING_FACTOR = 6  # times as long where the call may load a base


@dataclass(eq=False)
class WorkerHandle:
    """One worker on one device. `restart` starts a new executor after a failure."""

    executor: Executor
    num_slots: int
    device: str
    kind: str = "cpu"  # or cuda
    restart: Callable[[], Executor] | None = None
    base: str = ""  # the key of the base that the worker has loaded
    live: dict[int, Trial] = field(default_factory=dict)
    pending: list[Command] = field(default_factory=list)  # sent with the next call
    answer: "Future[list[Event]] | None" = None  # of the call in progress
    is_closed: bool = False
    failures: list[Failure] = field(default_factory=list)  # since a trial last reached a rung or its end here
    ready_s: float = 0.0  # no trial starts before this time
    last_error: str = ""  # of trials that failed here in a row for the same reason
    num_same_errors: int = 0
    longest_s: float = 0.0  # of all calls that loaded no base
    _submitted_s: float = 0.0
    _may_load: bool = False

    @property
    def num_free(self) -> int:
        """Return how many more trials the worker may get now."""
        return (1 if self.is_unreliable else self.num_slots) - len(self.live)

    @property
    def is_unreliable(self) -> bool:
        """Tell whether the device failed repeatedly: it then gets one trial at a time, after growing pauses."""
        return len(self.failures) >= UNRELIABLE_AFTER

    @property
    def is_ready(self) -> bool:
        return time.monotonic() >= self.ready_s

    @property
    def pause_s(self) -> float:
        """Return how long the device pauses after its next failure: 0.1 s, 1.1, 3.1, 7.1, ... up to half an hour."""
        return min(MAX_PAUSE_S, 2.0 ** min(len(self.failures), 30) - 0.9)

    def submit(self, commands: Sequence[Command]) -> None:
        """Call the worker; start a new one where the last was closed."""
        if self.is_closed:
            assert self.restart is not None
            self.executor, self.is_closed = self.restart(), False
        self._submitted_s, self._may_load = time.monotonic(), any(isinstance(c, Start) for c in commands)
        self.answer = self.executor.submit(commands)

    def result(self) -> list[Event]:
        """Return the events of the call that is done.

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
        """Tell whether an event is from a trial's present attempt; events from earlier ones are ignored."""
        if not isinstance(event, Rung | Finished | Evicted):
            return True
        trial = self.live.get(event.number)
        return trial is not None and trial.attempt == event.attempt

    def hung_s(self, least_s: float) -> float:
        """Return for how long the call in progress has taken, 0 while that may still be work."""
        elapsed = time.monotonic() - self._submitted_s
        allowed = max(least_s * (LOADING_FACTOR if self._may_load else 1), HANG_FACTOR * self.longest_s)
        return elapsed if self.answer is not None and elapsed > allowed else 0.0

    def fail(self, reason: str, *, is_from_outside: bool = False) -> list[Trial]:
        """Close the worker and pause before the next one starts; return the trials that were live on it."""
        self.executor.close()
        trials = list(self.live.values())
        self.live, self.pending, self.answer, self.is_closed, self.base = {}, [], None, True, ""
        self.ready_s = time.monotonic() + self.pause_s
        numbers = frozenset(trial.number for trial in trials)
        self.failures.append(Failure(reason=reason, numbers=numbers, is_from_outside=is_from_outside))
        return trials

    def has_failed_under(self, number: int) -> bool:
        """Tell whether the device failed under a trial since it last worked."""
        return any(number in failure.numbers for failure in self.failures)

    def recover(self) -> list[Failure]:
        """Forget the failures, for the device works; return them, for they were not the device's."""
        failures, self.failures = self.failures, []
        return failures

    def count_errors(self, result: TrialResult) -> None:
        """Count trials in a row that failed here for the same reason."""
        reason = last_line(result.reason) if result.state is TrialState.FAILED else ""
        if reason.startswith(NOT_FINITE):  # depends on that trial's settings only
            return
        self.num_same_errors = self.num_same_errors + 1 if reason == self.last_error else 1
        self.last_error = reason
