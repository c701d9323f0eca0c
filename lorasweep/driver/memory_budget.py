"""Decide what fits on a device, from memory predictions for live trials and the peaks that workers measure."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from lorasweep.core.messages import Measured
from lorasweep.core.result import TrialResult
from lorasweep.core.spec import TrialSpec
from lorasweep.core.trial import Trial
from lorasweep.driver.worker_handle import WorkerHandle
from lorasweep.memory import GIB, Footprint, footprint, own_bytes
from lorasweep.planning.plan import USABLE, Plan

UNMEASURED_SHARE = 0.5  # share of a device's free memory that predictions for an unmeasured base may fill


@dataclass(slots=True)
class ExpectedMemory:
    """The maximum predicted memory of a worker since it last had no trials."""

    bytes: int = 0  # corrected, without the part that the worker's meter does not see
    footprint: Footprint | None = None  # not corrected
    own: dict[int, int] = field(default_factory=dict)  # bytes that each trial adds, by number


class MemoryBudget:
    """Decides whether a trial fits on a worker, from predictions, measurements so far and free memory."""

    def __init__(self, plan: Plan, show: Callable[[str], None]) -> None:
        self.plan, self.show = plan, show
        self.expected: dict[str, ExpectedMemory] = {}  # by device
        self._full_since_s: dict[str, float] = {}  # by device

    def free_bytes(self, handle: WorkerHandle) -> float | None:
        """Return the bytes that predictions for a worker may fill now; None if unknown."""
        free = handle.executor.free_bytes()
        return None if free is None else self.plan.budget(free)

    def too_large(self, spec: TrialSpec) -> str:
        """Return why a trial fits on no device; empty if it fits on one."""
        limit_gib = self.plan.config.study.memory_gib
        device = max(self.plan.devices, key=lambda device: device.most_bytes)
        most = min(device.most_bytes / GIB, limit_gib or float("inf"))
        need = self.plan.footprint([spec]).total / GIB
        if need <= most:
            return ""
        has = "has" if device.is_gpu else "has free"
        limit = f"study.memory_gib={limit_gib:g}" if most == limit_gib else f"the largest device {has} {most:.2f} GiB"
        return f"needs {need:.2f} GiB, {limit}; lower the batch size or set model.precision=nf4"

    def fits_beside(self, handle: WorkerHandle, spec: TrialSpec) -> bool:
        """Return whether a trial fits together with the live ones. For the first trial of a worker see `is_full`."""
        free = None if self.plan.config.study.slots or not handle.live else self.free_bytes(handle)
        return free is None or self.plan.footprint([*_specs(handle), spec], handle.kind).total <= free

    def awaits_warmup(self, handle: WorkerHandle) -> bool:
        """Return whether a trial must wait for the first one's warm-up: memory is tight and the base unmeasured."""
        if not handle.live or self.plan.config.study.slots:
            return False
        spec = next(iter(handle.live.values())).spec
        if self.plan.corrections.is_known(self.plan.info(spec.model).fingerprint, spec.model, handle.kind):
            return False
        free = self.free_bytes(handle)
        need = self.plan.footprint([spec] * handle.num_slots, handle.kind).total
        return free is not None and need > UNMEASURED_SHARE * free

    def is_full(self, handle: WorkerHandle, trial: Trial) -> bool:
        """Return whether other processes leave a GPU too little memory for its first trial; show a note once."""
        free, need = self.free_bytes(handle), self.plan.footprint([trial.spec], handle.kind).total
        # A trial alone may use all free memory, because no other trial grows with it.
        if handle.live or handle.kind == "cpu" or free is None or need * USABLE <= free:
            self._full_since_s.pop(handle.device, None)
            return False
        if handle.device not in self._full_since_s:
            self._full_since_s[handle.device] = time.monotonic()
            self.show(
                f"GPU {handle.device} has {free / GIB:.1f} GiB free, trial {trial.number} needs {need / GIB:.1f}; "
                f"waiting up to {self._wait_limit_min:g} min (study.device_wait_min) for other processes to free memory"
            )
        return True

    @property
    def is_waiting(self) -> bool:
        """Return whether a worker waits for other processes to free its GPU."""
        return bool(self._full_since_s)

    def gives_up(self, handle: WorkerHandle) -> bool:
        """Return whether the wait for a full GPU has reached its limit; then show a note."""
        since_s = self._full_since_s.get(handle.device)
        if since_s is None or time.monotonic() - since_s <= 60 * self._wait_limit_min:
            return False
        del self._full_since_s[handle.device]
        self.show(
            f"GPU {handle.device} is still full; continuing without it (study.device_wait_min={self._wait_limit_min:g})"
        )
        return True

    @property
    def _wait_limit_min(self) -> float:
        return self.plan.config.study.device_wait_min

    def expect(self, handle: WorkerHandle, num_new: int) -> None:
        """Predict the memory of all live trials of a worker together; `num_new` of them have just started."""
        if num_new == len(handle.live):
            self.expected[handle.device] = ExpectedMemory()
        expected, specs = self.expected[handle.device], _specs(handle)
        info, loads = self.plan.info(specs[0].model), self.plan.loads(specs)
        need = footprint(info, loads, kind=handle.kind)
        expected.own |= dict(zip(handle.live, own_bytes(info, loads, kind=handle.kind), strict=True))
        if expected.footprint is None or need.total > expected.footprint.total:
            expected.footprint = need
            factor = self.plan.factor(specs[0].model, handle.kind)
            expected.bytes = need.corrected(factor, handle.kind).measurable(handle.kind)

    def settle(self, handle: WorkerHandle, result: TrialResult) -> TrialResult:
        """Return the result with its memory predictions, and correct later predictions by its measured peak."""
        alone = self.plan.footprint([result.spec], handle.kind).total
        expected = self.expected.get(handle.device)
        if expected is None or expected.footprint is None or not result.cost.peak_bytes:
            return replace(result, cost=replace(result.cost, alone_bytes=alone))
        self._learn(handle.kind, result.spec, expected.footprint, result.cost.peak_bytes)
        share = _share_bytes(expected, result, handle.kind)
        cost = replace(result.cost, predicted_bytes=expected.bytes, share_bytes=share, alone_bytes=alone)
        return replace(result, cost=cost)

    def learn_warmup(self, handle: WorkerHandle, event: Measured) -> None:
        """Correct predictions by a warm-up: a pass over a trial's longest rows, with all live trials' adapters."""
        trial = handle.live.get(event.number)
        if trial is None:
            return
        info = self.plan.info(trial.spec.model)
        spec, lengths = self.plan.loads([trial.spec])[0]
        longest = replace(lengths, mean=lengths.longest, deviation=0.0)
        one = footprint(info, [(spec, longest)], kind=handle.kind, is_evaluated=False)
        every = footprint(info, self.plan.loads(_specs(handle)), kind=handle.kind)
        self._learn(handle.kind, spec, replace(one, adapters=every.adapters), event.peak_bytes)

    def _learn(self, kind: str, spec: TrialSpec, need: Footprint, peak_bytes: int) -> None:
        fingerprint = self.plan.info(spec.model).fingerprint
        predicted, measured = need.measurable(kind) - need.weights, peak_bytes - need.weights
        self.plan.corrections.learn(fingerprint, spec.model, kind, predicted, measured)


def _specs(handle: WorkerHandle) -> Sequence[TrialSpec]:
    return [trial.spec for trial in handle.live.values()]


def _share_bytes(expected: ExpectedMemory, result: TrialResult, kind: str) -> int:
    """Return a trial's part of the measured peak without the base; all trials of the worker share that peak."""
    assert expected.footprint is not None
    fixed = expected.footprint.weights + (expected.footprint.overhead if kind == "cpu" else 0)
    part = expected.own.get(result.number, 0) / max(1, sum(expected.own.values()))
    return round(part * max(0, result.cost.peak_bytes - fixed))
