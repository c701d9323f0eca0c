"""The queue of trials that wait for a slot or for the result of an equal trial."""

from collections import deque
from collections.abc import Iterable
from dataclasses import replace

from lorasweep.adapters.methods.table import method_of
from lorasweep.core.result import TrialResult, TrialState
from lorasweep.core.spec import TrialSpec
from lorasweep.core.trial import Trial
from lorasweep.driver.worker_handle import WorkerHandle

MAX_RETRIES = 2  # of a trial whose worker died; at the last one it runs alone, so that it cannot end other trials


class TrialQueue:
    """Waiting trials in order, and results of finished trials by fingerprint."""

    def __init__(self, results: Iterable[TrialResult]) -> None:
        self.waiting: deque[Trial] = deque()
        self._duplicates: dict[str, list[Trial]] = {}
        self._open: set[str] = set()  # fingerprints of waiting and running trials
        self._known: dict[str, TrialResult] = {}
        self._infeasible: list[TrialResult] = []
        for result in results:
            self.close(result)

    @property
    def num_distinct(self) -> int:
        """Return the number of distinct trials with a result."""
        return len(self._known)

    def known(self, trial: Trial) -> TrialResult | None:
        """Return the result of an equal trial, with this trial's number; None if there is none."""
        found = self._known.get(trial.spec.fingerprint)
        return None if found is None else repeated(trial, found)

    def add(self, trial: Trial) -> None:
        """Append a trial; if an equal one is waiting or running, hold it back until that one has a result."""
        if trial.spec.fingerprint in self._open:
            self._duplicates.setdefault(trial.spec.fingerprint, []).append(trial)
            return
        self._open.add(trial.spec.fingerprint)
        self.waiting.append(trial)

    def available_to(self, handle: WorkerHandle) -> list[Trial]:
        """Return the trials that a worker may get; those with which its device failed come last."""
        if any(is_last_attempt(trial) for trial in handle.live.values()):
            return []
        found = [trial for trial in self.waiting if not (handle.live and is_last_attempt(trial))]
        return sorted(found, key=lambda trial: sum(trial.number in f.numbers for f in handle.failures))

    def remove(self, number: int) -> Trial | None:
        """Remove a waiting trial and return it; None if it is not waiting."""
        trial = next((trial for trial in self.waiting if trial.number == number), None)
        if trial is not None:
            self.waiting.remove(trial)
        return trial

    def close(self, result: TrialResult) -> list[TrialResult]:
        """Add a result; return results for the trials that waited for it."""
        self._known.setdefault(result.fingerprint, result)
        self._open.discard(result.fingerprint)
        if result.state is TrialState.INFEASIBLE and result.same_as is None:
            self._infeasible.append(result)
        return [repeated(trial, result) for trial in self._duplicates.pop(result.fingerprint, [])]

    def too_large(self, spec: TrialSpec) -> str:
        """Return why a trial cannot fit: a smaller trial did not. Empty if it may fit."""
        smaller = next((r for r in self._infeasible if is_at_least(spec, r.spec)), None)
        return "" if smaller is None else f"needs no less than trial {smaller.number}, which did not fit"


def repeated(trial: Trial, known: TrialResult) -> TrialResult:
    """Return the result of an equal trial as this trial's result."""
    first = known.number if known.same_as is None else known.same_as
    return replace(
        known, number=trial.number, params=dict(trial.params), same_as=first, reason=f"same as trial {first}"
    )


def is_last_attempt(trial: Trial) -> bool:
    """Return whether so many workers died with a trial that it must run alone."""
    return trial.attempt >= MAX_RETRIES


def is_at_least(spec: TrialSpec, other: TrialSpec) -> bool:
    """Return whether a trial needs at least as much memory as another trial on the same base."""
    return (
        spec.model == other.model
        and spec.train.optim == other.train.optim
        and spec.train.per_device_train_batch_size >= other.train.per_device_train_batch_size
        and spec.data.max_length >= other.data.max_length
        and spec.data.train == other.data.train
        and spec.lora.method == other.lora.method
        and method_of(spec.lora).rank(spec.lora) >= method_of(other.lora).rank(other.lora)
        and set(spec.lora.target_modules) >= set(other.lora.target_modules)
    )
