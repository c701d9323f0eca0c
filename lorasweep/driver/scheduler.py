"""Which trial runs next, where; and whether a trial whose worker failed runs again.

A failure counts against the device until the device works again. Then the device was not the cause, and the failure
counts as a try of the trials that ran there. So a dead device uses up no trial's tries, and a trial that kills every
worker has used up its tries once those devices have run others. A worker that was killed from outside uses up no try,
but no trial is started more than `MAX_ATTEMPTS` times.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from lorasweep.core.result import TrialResult, TrialState
from lorasweep.core.trial import Trial
from lorasweep.driver.memory_budget import MemoryBudget
from lorasweep.driver.queue import MAX_RETRIES, TrialQueue
from lorasweep.driver.worker_handle import WorkerHandle
from lorasweep.planning.plan import Plan
from lorasweep.study.study import Study

MAX_ATTEMPTS = 10  # of one trial, whatever ended its workers
TRIED = f"as it did {MAX_RETRIES} times before"


class Scheduler:
    """Chooses trials for workers until the plan, or its time, is at its end."""

    def __init__(self, plan: Plan, study: Study, budget: MemoryBudget, results: Mapping[int, TrialResult]) -> None:
        self.plan, self.study, self.budget = plan, study, budget
        self.queue = TrialQueue(results.values())
        self.deadline_s = time.monotonic() + 60 * (plan.config.study.timeout_min or float("inf"))
        self._tries: Counter[int] = Counter()
        self._reasons: dict[int, str] = {}

    def resumed(self, attempts: Callable[[int], int]) -> Iterator[Trial]:
        """Yield the trials that ran when the last driver ended. `attempts` is how often each was begun again."""
        if self.plan.is_grid:
            self.study.enqueue(trial.params for trial in self.plan.trials)
        for number, params in self.study.resume():
            yield self.plan.trial(number, params, attempt=attempts(number))

    def place(self, trial: Trial) -> TrialResult | None:
        """Queue a trial. Return its result where none is needed: it is known already, or too large for every device."""
        ended = self.queue.known(trial) or self._refused(trial)
        if ended is None:
            self.queue.add(trial)
        return ended

    def next(self, handle: WorkerHandle, handles: Sequence[WorkerHandle]) -> Trial | TrialResult | None:
        """Return a trial for a worker, a result that needed no training, or None where nothing may start there now.

        Trials on the base that the worker has loaded come first; another base only where no trial is live on it.
        """
        if self.budget.awaits_warmup(handle):
            return None
        while time.monotonic() < self.deadline_s:
            waiting = [t for t in self.queue.available_to(handle) if not _is_better_elsewhere(t, handle, handles)]
            untried = [t for t in waiting if not handle.has_failed_under(t.number)]
            found = _on_its_base(handle, untried)
            if found is None and self._num_untried(handle) < max(handle.num_slots, 2) and self._may_ask():
                if ended := self.place(self.plan.trial(*self.study.ask())):
                    return ended
                continue
            found = found or _on_its_base(handle, waiting) or _on_another_base(handle, handles, waiting)
            if found is None or not self.budget.fits_beside(handle, found.spec):
                return None
            self.queue.waiting.remove(found)
            # Measurements since it was queued may have shown it to be too large.
            return self._refused(found) or found
        return None

    @property
    def has_waiting(self) -> bool:
        """Tell whether trials wait that there is still time for."""
        return bool(self.queue.waiting) and time.monotonic() < self.deadline_s

    @property
    def has_more(self) -> bool:
        """Tell whether a free device would get a trial now."""
        return time.monotonic() < self.deadline_s and (bool(self.queue.waiting) or self._may_ask())

    def retry(self, trial: Trial, handles: Sequence[WorkerHandle], reason: str) -> TrialResult | None:
        """Queue a trial whose worker failed; return its result where it has failed too often."""
        self._reasons[trial.number] = reason
        if why := self._exhausted(trial, handles):
            return self._failed(trial, why)
        self.queue.waiting.append(trial.retried())
        return None

    def device_works(self, handle: WorkerHandle) -> list[TrialResult]:
        """Count a device's earlier failures as tries of their trials; return the results of those out of tries."""
        failures = [failure for failure in handle.recover() if not failure.is_from_outside]
        self._tries.update(number for failure in failures for number in failure.numbers)
        tried = sorted({number for failure in failures for number in failure.numbers})
        spent = (self.queue.remove(number) for number in tried if self._tries[number] > MAX_RETRIES)
        return [self._failed(trial, TRIED) for trial in spent if trial is not None]

    def _refused(self, trial: Trial) -> TrialResult | None:
        reason = self.budget.too_large(trial.spec) or self.queue.too_large(trial.spec)
        return TrialResult.of(trial, TrialState.INFEASIBLE, reason) if reason else None

    def _num_untried(self, handle: WorkerHandle) -> int:
        return sum(not handle.has_failed_under(trial.number) for trial in self.queue.waiting)

    def _may_ask(self) -> bool:
        """Tell whether the study wants another trial."""
        if self.plan.is_grid:
            return self.study.num_queued > 0
        return self.study.num_asked < self.plan.num_trials and self.queue.num_distinct < self.plan.num_distinct

    def _exhausted(self, trial: Trial, handles: Sequence[WorkerHandle]) -> str:
        """Return why a trial does not run again; empty where it does.

        While other trials can show whether the devices work, failures since they last did are not counted.
        """
        if trial.attempt + 1 >= MAX_ATTEMPTS:
            return f"as {MAX_ATTEMPTS - 1} workers before it"
        others = self.has_more or any(handle.live for handle in handles)
        failures = [f for h in handles for f in h.failures if trial.number in f.numbers and not f.is_from_outside]
        num_tries = self._tries[trial.number] + (0 if others else len(failures))
        return TRIED if num_tries > MAX_RETRIES else ""

    def _failed(self, trial: Trial, why: str) -> TrialResult:
        reason = f"{self._reasons.get(trial.number, 'its worker process died')}, {why}"
        return TrialResult.of(trial, TrialState.FAILED, reason)


def _on_its_base(handle: WorkerHandle, waiting: Sequence[Trial]) -> Trial | None:
    return next((trial for trial in waiting if trial.spec.base_key == handle.base), None)


def _on_another_base(handle: WorkerHandle, handles: Sequence[WorkerHandle], waiting: Sequence[Trial]) -> Trial | None:
    """Return a trial that an empty worker should change its base for.

    First one whose base no other worker has, then one whose base is only on workers without a free slot: loading a
    base takes long, but a device without work wastes more.
    """
    if handle.live:
        return None
    others = [h for h in handles if h is not handle and h.base]
    loaded, free = {h.base for h in others}, {h.base for h in others if h.num_free}
    new = (trial for trial in waiting if trial.spec.base_key not in loaded)
    full = (trial for trial in waiting if trial.spec.base_key not in free)
    return next(new, None) or next(full, None)


def _is_better_elsewhere(trial: Trial, handle: WorkerHandle, handles: Sequence[WorkerHandle]) -> bool:
    """Tell whether a device failed under a trial that another device, which works, has not run since."""
    others = (h for h in handles if h is not handle and not h.is_unreliable)
    return handle.has_failed_under(trial.number) and any(not h.has_failed_under(trial.number) for h in others)
