"""Pruners of our own: trials are judged by what their peers reports_of at the same rung.

Optuna's median and percentile pruners look at complete trials only. Trials that share a bank reach a rung together,
when none is complete, so those pruners would never stop one.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import quantiles
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from lorasweep.config.build import StudySettings
from lorasweep.core.result import TrialResult, TrialState
from lorasweep.core.rungs import rung_at, rungs_of
from lorasweep.study.rules import MIN_PEERS, RULES, RungComparison, RungReport, make_report


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneDecision:
    """A trial is given up: by which rule, and why."""

    rule: str  # empty for a pruner that has but one
    reason: str


class PeerPruner(optuna.pruners.BasePruner):
    """Give a trial up that is among the worst `share` of all that reports_of at its latest rung, itself included."""

    def __init__(self, share: float) -> None:
        self.share = share

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Tell whether the trial's latest value is worse than its peers' quantile."""
        rung = trial.last_step
        if rung is None:
            return False
        peers = [t.intermediate_values[rung] for t in study.get_trials(deepcopy=False) if rung in t.intermediate_values]
        if len(peers) <= MIN_PEERS:
            return False
        sign = 1 if _is_maximized(study) else -1
        cut = quantiles((sign * value for value in peers), n=100, method="inclusive")[round(100 * self.share) - 1]
        return bool(sign * trial.intermediate_values[rung] < cut)


class RulePruner(optuna.pruners.BasePruner):
    """Give a trial up for which one of `RULES` has a reason; one in `reduction_factor` may go on after a rung."""

    def __init__(self, reduction_factor: int) -> None:
        self.reduction_factor = reduction_factor

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Tell whether any rule has a reason."""
        rung = trial.last_step
        return rung is not None and self.decision(study, trial, rung, study.get_trials(deepcopy=False)) is not None

    def decision(
        self, study: optuna.Study, trial: FrozenTrial, rung: int, trials: Sequence[FrozenTrial]
    ) -> PruneDecision | None:
        """Return the first rule that has a reason at the rung."""
        # A trial that begins again after an interruption has rung_reports ahead of it.
        own = tuple(rung_report for rung_report in rung_reports(trial) if rung_report.rung <= rung)
        if not own:
            return None
        peers = tuple(r for t in trials for r in rung_reports(t) if r.rung == own[-1].rung)
        comparison = RungComparison(
            own=own, peers=peers, maximize=_is_maximized(study), reduction_factor=self.reduction_factor
        )
        reasons = ((name, rule(comparison)) for name, rule in RULES.items())
        return next((PruneDecision(rule=name, reason=reason) for name, reason in reasons if reason), None)


def prune_decisions(study: optuna.Study, rungs: Mapping[int, int]) -> dict[int, PruneDecision]:
    """Judge the trials that are at these rungs, by number, against the same peers; leave out those that may go on."""
    trials = study.get_trials(deepcopy=False)
    found = {t.number: _decision(study, t, rungs[t.number], trials) for t in trials if t.number in rungs}
    return {number: decision for number, decision in found.items() if decision is not None}


def _decision(
    study: optuna.Study, trial: FrozenTrial, rung: int, trials: Sequence[FrozenTrial]
) -> PruneDecision | None:
    pruner = study.pruner
    if isinstance(pruner, RulePruner):
        return pruner.decision(study, trial, rung, trials)
    return PruneDecision(rule="", reason="") if pruner.prune(study, trial) else None


def report(study: optuna.Study, trial: optuna.Trial, rung_report: RungReport) -> None:
    """Report a trial's objective at a rung, and what a pruner of ours needs beside it."""
    with warnings.catch_warnings():
        # A trial that begins again after an interruption reports the same once more.
        warnings.filterwarnings("ignore", "The reported value is ignored", UserWarning)
        trial.report(rung_report.value, step=rung_report.rung)
    if isinstance(study.pruner, RulePruner):
        trial.set_user_attr(*attribute(rung_report))


def attribute(rung_report: RungReport) -> tuple[str, dict[str, float]]:
    """Return a rung_report as the attribute of a stored trial, which outlives the process."""
    return f"{RUNG}{rung_report.rung}", asdict(rung_report)


def rung_reports(trial: FrozenTrial) -> tuple[RungReport, ...]:
    """Return what a trial reports_of, in order."""
    found = [RungReport(**value) for key, value in trial.user_attrs.items() if key.startswith(RUNG)]
    return tuple(sorted(found, key=lambda rung_report: rung_report.rung))


def reports_of(result: TrialResult) -> tuple[RungReport, ...]:
    """Return what a trial reports_of on its way, from its history; the end of a complete one is no report."""
    name = f"eval/{result.spec.eval.objective}"
    points = [point for point in result.history if name in point.metrics]
    if result.state is TrialState.COMPLETE:
        points = points[:-1]
    steps = rungs_of(result.spec.eval, result.cost.num_planned_steps)
    numbers = [rung_at(steps, point.step) for point in points]
    if not all(numbers):  # rungs lay elsewhere when it was trained
        numbers = list(range(1, len(points) + 1))
    found = (make_report(n, point.metrics[name], point.metrics) for n, point in zip(numbers, points, strict=True))
    return tuple(rung_report for rung_report in found if math.isfinite(rung_report.value))


RUNG = "rung "


def _is_maximized(study: optuna.Study) -> bool:
    return bool(study.direction == optuna.study.StudyDirection.MAXIMIZE)


def make_pruner(settings: StudySettings, num_rungs: int) -> optuna.pruners.BasePruner:
    """Return the pruner that the settings name; its resource is the rung, 1 to `num_rungs`."""
    pruners, factor = optuna.pruners, settings.reduction_factor
    table: dict[str, Any] = {
        "none": pruners.NopPruner,
        "median": lambda: PeerPruner(0.5),
        "percentile": lambda: PeerPruner(0.25),
        "successive_halving": lambda: pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=factor),
        "hyperband": lambda: pruners.HyperbandPruner(min_resource=1, max_resource=num_rungs, reduction_factor=factor),
        "rules": lambda: RulePruner(factor),
        "patient": lambda: pruners.PatientPruner(PeerPruner(0.5), patience=1),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        pruner: optuna.pruners.BasePruner = table[settings.pruner]()
    return pruner
