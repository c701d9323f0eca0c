"""Pruners that compare a trial with the reports of all trials at the same rung.

Optuna's median and percentile pruners compare with complete trials only. Trials that share a bank reach a rung
together, before any is complete, so those pruners would never stop one.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import quantiles
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from lorasweep.config.settings import StudySettings
from lorasweep.core.result import TrialResult, TrialState
from lorasweep.core.rungs import rung_at, rungs_of
from lorasweep.study.rules import MIN_PEERS, RULES, RungComparison, RungReport, make_report


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneDecision:
    """The decision to prune a trial."""

    rule: str  # empty if the pruner has no rules
    reason: str


class PeerPruner(optuna.pruners.BasePruner):
    """Prune a trial among the worst `share` of all trials, including itself, that reported at its latest rung."""

    def __init__(self, share: float) -> None:
        self.share = share

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Return whether the trial's latest value is worse than the quantile of all values at its rung."""
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
    """Prune a trial if one of `RULES` gives a reason; one in `reduction_factor` trials may continue after a rung."""

    def __init__(self, reduction_factor: int) -> None:
        self.reduction_factor = reduction_factor

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Return whether a rule gives a reason."""
        rung = trial.last_step
        return rung is not None and self.decision(study, trial, rung, study.get_trials(deepcopy=False)) is not None

    def decision(
        self, study: optuna.Study, trial: FrozenTrial, rung: int, trials: Sequence[FrozenTrial]
    ) -> PruneDecision | None:
        """Return the decision of the first rule that gives a reason at the rung, None if none does."""
        # A trial that restarts after an interruption has stored reports of later rungs.
        own = tuple(earlier for earlier in rung_reports(trial) if earlier.rung <= rung)
        if not own:
            return None
        peers = tuple(r for t in trials for r in rung_reports(t) if r.rung == own[-1].rung)
        comparison = RungComparison(
            own=own, peers=peers, maximize=_is_maximized(study), reduction_factor=self.reduction_factor
        )
        reasons = ((name, rule(comparison)) for name, rule in RULES.items())
        return next((PruneDecision(rule=name, reason=reason) for name, reason in reasons if reason), None)


def prune_decisions(study: optuna.Study, rungs: Mapping[int, int]) -> dict[int, PruneDecision]:
    """Return the decision for each pruned trial at these rungs, by number; trials that may continue are left out."""
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
    """Report a trial's objective at a rung; store the whole report if the pruner needs it."""
    with warnings.catch_warnings():
        # A trial that restarts after an interruption repeats its reports.
        warnings.filterwarnings("ignore", "The reported value is ignored", UserWarning)
        trial.report(rung_report.value, step=rung_report.rung)
    if isinstance(study.pruner, RulePruner):
        trial.set_user_attr(*attribute(rung_report))


def attribute(rung_report: RungReport) -> tuple[str, dict[str, float]]:
    """Return a report as name and value of a user attribute of the stored trial."""
    return f"{RUNG}{rung_report.rung}", asdict(rung_report)


def rung_reports(trial: FrozenTrial) -> tuple[RungReport, ...]:
    """Return a trial's stored reports, ordered by rung."""
    found = [RungReport(**value) for key, value in trial.user_attrs.items() if key.startswith(RUNG)]
    return tuple(sorted(found, key=lambda one: one.rung))


def reports_of(result: TrialResult) -> tuple[RungReport, ...]:
    """Return the reports of a trial from its result's history, without the final evaluation of a complete trial."""
    name = f"eval/{result.spec.eval.objective}"
    points = [point for point in result.history if name in point.metrics]
    if result.state is TrialState.COMPLETE:
        points = points[:-1]
    steps = rungs_of(result.spec.eval, result.cost.num_planned_steps)
    numbers = [rung_at(steps, point.step) for point in points]
    if not all(numbers):  # the study had other rungs when the trial ran
        numbers = list(range(1, len(points) + 1))
    found = (make_report(n, point.metrics[name], point.metrics) for n, point in zip(numbers, points, strict=True))
    return tuple(one for one in found if math.isfinite(one.value))


RUNG = "rung "


def _is_maximized(study: optuna.Study) -> bool:
    return bool(study.direction == optuna.study.StudyDirection.MAXIMIZE)


def make_pruner(settings: StudySettings, num_rungs: int) -> optuna.pruners.BasePruner:
    """Return the pruner of the settings; its resource is the rung, 1 to `num_rungs`."""
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
