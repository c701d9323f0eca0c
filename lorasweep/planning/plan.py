"""The plan of a sweep: its trials, data, devices and memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from lorasweep.config.grammar import Domain
from lorasweep.config.settings import SweepConfig
from lorasweep.config.space import trial_spec
from lorasweep.core.messages import WorkerSettings
from lorasweep.core.spec import ModelSpec, TrialSpec
from lorasweep.core.trial import Params, Scalar, Trial
from lorasweep.devices.devices import Device
from lorasweep.memory import GIB, Corrections, Footprint, Loads, footprint
from lorasweep.models.info import describe, resolve_targets
from lorasweep.models.shape import BaseInfo
from lorasweep.planning.data_stats import DataFacts

USABLE = 0.8  # share of a device's free memory that predictions may fill

Point = frozenset[tuple[str, Scalar]]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A checked sweep that is ready to run.

    `trials` are all points of a grid, or corners of a space that is searched, numbered by position.
    """

    raw: Mapping[str, Any]
    config: SweepConfig
    domains: Mapping[str, Domain]
    trials: tuple[Trial, ...]
    num_same: int  # points of a finite space that equal an earlier one
    num_distinct: float
    devices: tuple[Device, ...]
    facts: Mapping[str, DataFacts]
    corrections: Corrections
    slots: Mapping[str, int]  # by device
    rung_start: float = 0.0  # share of the steps that the longest warm-up takes

    @property
    def num_trials(self) -> int:
        """Return how many trials the study asks for."""
        return len(self.trials) if self.is_grid else self.config.study.trials

    @property
    def max_trials(self) -> int:
        """Return the maximum number of trials: a finite space has no more than its distinct points."""
        return int(min(self.num_trials, self.num_distinct))

    @property
    def is_grid(self) -> bool:
        """Return whether every point runs: by request, or because the space has at most `study.trials` points."""
        return self.config.study.sampler == "grid" or self.num_distinct <= self.config.study.trials

    def trial(self, number: int, params: Params, attempt: int = 0) -> Trial:
        """Return the trial for a point that the study suggests."""
        return Trial(number=number, params=params, spec=self.spec(params), attempt=attempt)

    def spec(self, params: Params) -> TrialSpec:
        """Return the spec of a point of the space."""
        known = self._specs.get(frozenset(params.items()))
        return known or with_rung_start(trial_spec(self.raw, params, resolve_targets), self.rung_start)

    @cached_property
    def _specs(self) -> dict[Point, TrialSpec]:
        return {frozenset(trial.params.items()): trial.spec for trial in self.trials}

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return a message for each reason why scores on the data are unreliable."""
        return tuple(dict.fromkeys(text for facts in self.facts.values() for text in facts.warnings))

    def info(self, model: ModelSpec) -> BaseInfo:
        """Return the description of a base."""
        return describe(model.id, model.revision, model.trust_remote_code)

    @property
    def num_slots(self) -> int:
        """Return the number of trials that can train at once, on all devices."""
        return sum(self.slots.values())

    @property
    def kind(self) -> str:
        """Return the kind of the devices, `cpu` or `cuda`, which determines how memory is counted."""
        return self.devices[0].kind

    def loads(self, specs: Sequence[TrialSpec]) -> Loads:
        """Return the specs, each with the lengths of its rows."""
        return [(spec, self.facts[spec.data_key].lengths) for spec in specs]

    def footprint(self, specs: Sequence[TrialSpec], kind: str | None = None) -> Footprint:
        """Predict the memory of these trials in one bank, corrected by earlier measurements on this base."""
        kind = kind or self.kind
        need = footprint(self.info(specs[0].model), self.loads(specs), kind=kind)
        return need.corrected(self.factor(specs[0].model, kind), kind)

    def factor(self, model: ModelSpec, kind: str) -> float:
        """Return the correction factor of memory predictions for a base, learned from measurements."""
        return self.corrections.factor(self.info(model).fingerprint, model, kind)

    def budget(self, free_bytes: float) -> float:
        """Return how many bytes of a device's free memory predictions may fill."""
        most = self.config.study.memory_gib
        return min(free_bytes * USABLE, most * GIB / self.num_shares) if most else free_bytes * USABLE

    @property
    def num_shares(self) -> int:
        """Return the number of workers that share a device: several on the CPU, one on a GPU."""
        return 1 if self.devices[0].is_gpu else len(self.devices)

    def worker(self, device: Device, num_threads: int) -> WorkerSettings:
        """Return the settings of a device's worker."""
        bases = {trial.spec.model for trial in self.trials}
        return WorkerSettings(
            base=bases.pop() if len(bases) == 1 and not device.is_gpu else None,
            visible=device.visible,
            device="cpu" if not device.is_gpu else f"cuda:{device.name}",
            num_slots=self.slots[device.name],
            num_threads=num_threads,
        )


def with_rung_start(spec: TrialSpec, share: float) -> TrialSpec:
    """Return a spec whose rungs start after `share` of its steps, or later if the spec says so."""
    return replace(spec, eval=replace(spec.eval, rung_start=max(share, spec.eval.rung_start)))
