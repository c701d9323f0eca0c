"""Try a pruning policy on the curves of a full sweep, with the pruners and the judging that a sweep itself uses."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import optuna

from benchmarks.curves import DENSE, Sweep
from evaluation.metrics import METRICS
from evaluation.ties import tied_with_best
from lorasweep.config.build import Pruner, StudySettings
from lorasweep.core.result import TrialResult
from lorasweep.core.rungs import rung_steps
from lorasweep.study.pruners import report, reported, verdicts
from lorasweep.study.rules import Reading
from lorasweep.study.study import make_pruner

CLOSE = 0.01  # a winner whose validation loss is this near to the full sweep's is as good


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A pruner with the rungs at which it judges."""

    pruner: Pruner
    rungs: int
    rung_factor: float = 1.0
    reduction_factor: int = 2

    @property
    def places(self) -> tuple[int, ...]:
        """Return the dense rungs at which it judges; the end is not one of them."""
        return rung_steps(DENSE, self.rungs, self.rung_factor)[:-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a policy made of one sweep; a regret of 0.02 is an objective worse by 0.02."""

    is_winner_lost: bool
    is_as_good: bool
    regret: float
    saved: float
    rules: tuple[str, ...]


def replay(policy: Policy, sweep: Sweep, *, is_bank: bool) -> Outcome:
    """Prune a sweep whose trials reach each rung together, as in a bank, or come one after another."""
    maximize = METRICS[sweep.results[0].spec.eval.objective].is_maximized
    pruner = make_pruner(StudySettings(pruner=policy.pruner, reduction_factor=policy.reduction_factor), policy.rungs)
    study = optuna.create_study(
        study_name="sweep",  # hyperband draws its brackets by name
        direction="maximize" if maximize else "minimize",
        pruner=pruner,
    )
    order = random.Random(sweep.seed).sample(sweep.results, len(sweep.results))  # a grid's own order is no chance
    waves = [sweep.results] if is_bank else [(result,) for result in order]
    ends = {number: end for wave in waves for number, end in _run(study, wave, policy)}
    return _judge(sweep.results, ends, maximize)


def _run(study: optuna.Study, wave: Sequence[TrialResult], policy: Policy) -> Iterator[tuple[int, tuple[int, str]]]:
    """Yield each trial's number with the dense rung at which it ended and the rule that ended it, if any."""
    live = {study.ask(): result for result in wave}
    for rung, place in enumerate(policy.places, 1):
        for trial, result in live.items():
            report(study, trial, _at(result, place, rung))
        found = verdicts(study, {trial.number: rung for trial in live})
        for trial in [trial for trial in live if trial.number in found]:
            yield live.pop(trial).number, (place, found[trial.number].rule or policy.pruner)
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    for trial, result in live.items():
        yield result.number, (DENSE, "")
        study.tell(trial, result.objective)


def _at(result: TrialResult, place: int, rung: int) -> Reading:
    """Return what a trial reported at a dense rung, under the number that it has in this policy."""
    # Dense rungs of a short trial share a step, and are then reported as the last of them.
    return replace(next(reading for reading in reported(result) if reading.rung >= place), rung=rung)


def _judge(results: Sequence[TrialResult], ends: dict[int, tuple[int, str]], maximize: bool) -> Outcome:
    best = _best(results, maximize)
    found = _best([r for r in results if not ends[r.number][1]], maximize)  # every policy lets some trial end
    ties = tied_with_best({r.number: r.scores for r in results}, maximize=maximize) | {best.number}
    is_close = found.metrics["loss"] <= best.metrics["loss"] * (1 + CLOSE)
    return Outcome(
        is_winner_lost=found.number != best.number,
        is_as_good=is_close or found.number in ties,
        regret=abs((best.objective or 0.0) - (found.objective or 0.0)),
        saved=(1 - results[0].spec.eval.rung_start) * (1 - sum(at for at, _ in ends.values()) / (DENSE * len(results))),
        rules=tuple(rule for _, rule in ends.values() if rule),
    )


def _best(results: Sequence[TrialResult], maximize: bool) -> TrialResult:
    sign = -1 if maximize else 1
    return min(results, key=lambda r: (sign * (r.objective or 0.0), r.cost.trainable_parameters, r.number))
