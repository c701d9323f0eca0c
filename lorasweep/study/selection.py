"""Rank configurations and choose one trial for each: the same order for leaderboard, winner and kept adapters."""

import math
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

from evaluation.metrics import LOSS, LOSS_PER_BYTE, METRICS
from lorasweep.core.result import TrialResult, TrialState

STATES = tuple(TrialState)  # the order of states: complete, pruned, infeasible, failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """Trials that differ only in `train.seed`, ordered by number; often a single trial."""

    trials: tuple[TrialResult, ...]
    ranked: tuple[TrialResult, ...]  # the complete trials with a score

    @property
    def result(self) -> TrialResult:
        """The trial whose adapter is kept and tested: the first ranked one. The best seed would be biased."""
        return next(iter(self.ranked), min(self.trials, key=lambda r: (STATES.index(r.state), r.number)))

    def objective(self, name: str) -> float | None:
        """Return the mean over ranked seeds; if there are none, over trials in the same state as `result`."""
        alike = self.ranked or [r for r in self.trials if r.state is self.result.state]
        values = [value for r in alike if (value := measured(r, name)) is not None]
        return fmean(values) if values else None

    @property
    def spread(self) -> float | None:
        """The standard deviation of the objective over seeds; None for fewer than two."""
        values = [r.objective for r in self.ranked if r.objective is not None]
        return stdev(values) if len(values) > 1 else None

    def metric(self, name: str) -> float | None:
        """Return the mean of a metric over ranked seeds; None if one of them lacks it."""
        values = [finite(r.metrics.get(name)) for r in self.ranked or (self.result,)]
        known = [value for value in values if value is not None]
        return fmean(known) if len(known) == len(values) else None


def tie_breaker(results: Iterable[TrialResult]) -> str:
    """Return the metric that orders equal objectives; lower is better."""
    return LOSS if len({result.spec.model.id for result in results}) < 2 else LOSS_PER_BYTE


def finite(value: float | None) -> float | None:
    """Return the value, None if it is missing or not finite."""
    return value if value is not None and math.isfinite(value) else None


def measured(result: TrialResult, objective: str) -> float | None:
    """Return the trial's objective; for a pruned trial the last reported one, for a diverged trial None."""
    if result.objective is None and result.state is TrialState.PRUNED:
        name = f"eval/{objective}"
        reported = [point.metrics[name] for point in result.history if name in point.metrics]
        return finite(reported[-1]) if reported else None
    return finite(result.objective)


def can_be_ranked(result: TrialResult, numbers: Container[int | None]) -> bool:
    """Return whether the trial is complete, has a score, and does not repeat another trial."""
    is_complete = result.state is TrialState.COMPLETE and finite(result.objective) is not None
    return is_complete and result.same_as not in numbers


def in_order(results: Iterable[TrialResult], objective: str) -> tuple[list[Configuration], list[Configuration]]:
    """Return the ranked configurations, best first, and all others. All ranked ones were scored on the same examples.

    The mean objective over seeds decides; then the validation loss, which predicts other seeds better than accuracy
    (in bits per byte if bases differ); then fewer trainable parameters; then the lower number.
    """
    found = _configurations(results)
    sign = -1 if METRICS[objective].is_maximized else 1
    loss = tie_breaker(one.result for one in found)

    def place(one: Configuration) -> tuple[int, float, float, int, int]:
        value, last, result = one.objective(objective), one.metric(loss), one.result
        worth = math.inf if value is None else sign * value
        parameters = result.cost.trainable_parameters
        return STATES.index(result.state), worth, math.inf if last is None else last, parameters, result.number

    ordered = sorted(found, key=place)
    ranked = _on_the_same_examples([one for one in ordered if one.ranked])
    places = {one.result.number for one in ranked}
    return ranked, [one for one in ordered if one.result.number not in places]


def _on_the_same_examples(ranked: Sequence[Configuration]) -> list[Configuration]:
    """Return the configurations that were scored on the most common set of examples."""
    most = Counter(examples_of(found.result) for found in ranked).most_common(1)
    return [found for found in ranked if examples_of(found.result) == most[0][0]]


def examples_of(result: TrialResult) -> tuple[object, ...]:
    """Return a key for the scored examples: their digest, or in older results the settings that selected them."""
    if result.examples:
        return (result.examples,)
    return (result.spec.model.id, replace(result.spec.data, limit=None), result.spec.eval.limit)


def winner(results: Iterable[TrialResult], objective: str) -> Configuration | None:
    """Return the best configuration; None if no trial is complete."""
    ranked, _ = in_order((r for r in results if r.same_as is None), objective)
    return next(iter(ranked), None)


def _configurations(results: Iterable[TrialResult]) -> list[Configuration]:
    """Group trials that differ only in their seed; two trials with the same seed are not grouped."""
    ordered = sorted(results, key=lambda r: r.number)
    numbers = {r.number for r in ordered}
    groups: dict[tuple[str, int], list[TrialResult]] = {}
    for result in ordered:
        key = result.spec.key_without_seed
        copy = 0
        while not _can_join(groups.get((key, copy), []), result):
            copy += 1
        groups.setdefault((key, copy), []).append(result)
    return [_configuration(found, numbers) for found in groups.values()]


def _can_join(group: Sequence[TrialResult], result: TrialResult) -> bool:
    is_double = result.same_as is not None or any(r.same_as is not None for r in group)
    return not group or not (is_double or result.spec.train.seed in {r.spec.train.seed for r in group})


def _configuration(found: Sequence[TrialResult], numbers: Container[int | None]) -> Configuration:
    return Configuration(trials=tuple(found), ranked=tuple(r for r in found if can_be_ranked(r, numbers)))
