"""Choose the next trial for a worker, and decide whether a trial whose worker failed runs again.

A failure counts against the device until the device works again. Then the device was not the cause, and the failure
counts as a try of the trials that ran there. So a broken device uses up no trial's tries, and a trial that kills every
worker runs out of tries once those devices have run other trials. A worker that was killed from outside uses up no try,
but no trial starts more than `MAX_ATTEMPTS` times.
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

MAX_ATTEMPTS = 10  # per trial, for any kind of failure
TRIED = f"as it did {MAX_RETRIES} times before"


class Scheduler:
    """Chooses trials for workers until the plan is complete or its time is over."""

    def __init__(self, plan: Plan, study: Study, budget: MemoryBudget, results: Mapping[int, TrialResult]) -> None:
        self.plan, self.study, self.budget = plan, study, budget
        self.queue = TrialQueue(results.values())
        self.deadline_s = time.monotonic() + 60 * (plan.config.study.timeout_min or float("inf"))
        self._tries: Counter[int] = Counter()
        self._reasons: dict[int, str] = {}

    def resumed(self, attempts: Callable[[int], int]) -> Iterator[Trial]:
        """Yield the trials that were running when the last driver ended. `attempts` counts failed workers."""
        if self.plan.is_grid:
            self.study.enqueue(trial.params for trial in self.plan.trials)
        for number, params in self.study.resume():
            yield self.plan.trial(number, params, attempt=attempts(number))

    def place(self, trial: Trial) -> TrialResult | None:
        """Queue a trial; if it needs no training, return its result: a known one, or INFEASIBLE if it fits nowhere."""
        ended = self.queue.known(trial) or self._refused(trial)
        if ended is None:
            self.queue.add(trial)
        return ended

    def requeue(self, trial: Trial, *, first: bool = False) -> None:
        """Queue a trial again that lost its slot, or, as the first, one that could not start."""
        (self.queue.waiting.appendleft if first else self.queue.waiting.append)(trial)

    def next(self, handle: WorkerHandle, handles: Sequence[WorkerHandle]) -> Trial | TrialResult | None:
        """Return a trial for a worker, a result that needed no training, or None if nothing may start there now.

        Trials on the worker's loaded base come first; a worker changes its base only if it has no live trial.
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
            # Measurements since it was queued may have shown that it is too large.
            return self._refused(found) or found
        return None

    @property
    def has_waiting(self) -> bool:
        """Return whether trials are waiting and there is time left."""
        return bool(self.queue.waiting) and time.monotonic() < self.deadline_s

    @property
    def has_more(self) -> bool:
        """Return whether a free device would get a trial now."""
        return time.monotonic() < self.deadline_s and (bool(self.queue.waiting) or self._may_ask())

    def retry(self, trial: Trial, handles: Sequence[WorkerHandle], reason: str) -> TrialResult | None:
        """Queue a trial whose worker failed; return its result if it has failed too often."""
        self._reasons[trial.number] = reason
        if why := self._exhausted(trial, handles):
            return self._failed(trial, why)
        self.requeue(trial.retried())
        return None

    def device_works(self, handle: WorkerHandle) -> list[TrialResult]:
        """Count a device's earlier failures as tries of their trials; return results for trials without tries left."""
        failures = [failure for failure in handle.recover() if not failure.is_from_outside]
        self._tries.update(number for failure in failures for number in failure.numbers)
        tried = sorted({number for failure in failures for number in failure.numbers})
        exhausted = (self.queue.remove(number) for number in tried if self._tries[number] > MAX_RETRIES)
        return [self._failed(trial, TRIED) for trial in exhausted if trial is not None]

    def _refused(self, trial: Trial) -> TrialResult | None:
        reason = self.budget.too_large(trial.spec) or self.queue.too_large(trial.spec)
        return TrialResult.of(trial, TrialState.INFEASIBLE, reason) if reason else None

    def _num_untried(self, handle: WorkerHandle) -> int:
        return sum(not handle.has_failed_under(trial.number) for trial in self.queue.waiting)

    def _may_ask(self) -> bool:
        """Return whether the study wants another trial."""
        if self.plan.is_grid:
            return self.study.num_queued > 0
        return self.study.num_asked < self.plan.num_trials and self.queue.num_distinct < self.plan.num_distinct

    def _exhausted(self, trial: Trial, handles: Sequence[WorkerHandle]) -> str:
        """Return why a trial does not run again; empty if it does.

        While other trials can show whether a device works, its failures since it last worked are not counted.
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
    """Return a trial for which a worker without live trials should change its base.

    First choice is a base that no other worker has, then one that only workers without a free slot have: loading a
    base takes long, but an idle device wastes more time.
    """
    if handle.live:
        return None
    others = [h for h in handles if h is not handle and h.base]
    loaded, free = {h.base for h in others}, {h.base for h in others if h.num_free}
    new = (trial for trial in waiting if trial.spec.base_key not in loaded)
    full = (trial for trial in waiting if trial.spec.base_key not in free)
    return next(new, None) or next(full, None)


def _is_better_elsewhere(trial: Trial, handle: WorkerHandle, handles: Sequence[WorkerHandle]) -> bool:
    """Return whether a device failed with a trial that another, reliable device can try."""
    others = (h for h in handles if h is not handle and not h.is_unreliable)
    return handle.has_failed_under(trial.number) and any(not h.has_failed_under(trial.number) for h in others)
