"""Put results in order, and say which of them the data cannot tell apart."""

import math
from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import replace

from evaluation.metrics import METRICS
from evaluation.statistics import Interval, mean_interval, tied_with_best, wilson_interval
from lorasweep.result import TrialResult, TrialState

STATES = tuple(TrialState)  # ranked trials come first, then pruned, infeasible and failed ones


def is_maximized(metric: str) -> bool:
    return METRICS[metric].direction == "maximize"


def finite(value: float | None) -> float | None:
    """Return the value, or None where there is no number to speak of."""
    return value if value is not None and math.isfinite(value) else None


def measured(result: TrialResult, objective: str) -> float | None:
    """Return the trial's objective, or the last one it reported before it ended; a diverged trial has none."""
    reported = [point.metrics[objective] for point in result.history if objective in point.metrics]
    if result.objective is None and result.state is TrialState.PRUNED:
        return finite(reported[-1]) if reported else None
    return finite(result.objective)


def can_be_ranked(result: TrialResult, numbers: Container[int | None]) -> bool:
    """Tell whether the trial ran to its end, has a score, and is not another one's double."""
    return (
        result.state is TrialState.COMPLETE and finite(result.objective) is not None and result.same_as not in numbers
    )


def in_order(results: Sequence[TrialResult], objective: str) -> tuple[list[TrialResult], list[TrialResult]]:
    """Return the ranked, best first, and all others."""
    sign = -1 if is_maximized(objective) else 1
    numbers = {result.number for result in results}

    def place(result: TrialResult) -> tuple[int, float, int, int]:
        value = measured(result, objective)
        worth = math.inf if value is None else sign * value
        return STATES.index(result.state), worth, result.cost.trainable_parameters, result.number

    ordered = sorted(results, key=place)
    ranked = _on_the_same_examples([result for result in ordered if can_be_ranked(result, numbers)])
    places = {result.number for result in ranked}
    return ranked, [result for result in ordered if result.number not in places]


def _on_the_same_examples(ranked: Sequence[TrialResult]) -> list[TrialResult]:
    """Return the trials that were scored on the examples that most were scored on: only these can be ranked."""
    most = Counter(map(examples_of, ranked)).most_common(1)
    return [result for result in ranked if examples_of(result) == most[0][0]]


def interval_of(result: TrialResult) -> Interval | None:
    """Return the objective's 95% interval, or None where it is not the mean of scores per example.

    A loss per token and a macro F1 are no such means, and an interval around another number would mislead.
    """
    scores = result.scores
    if len(scores) < 2 or not all(map(math.isfinite, scores)) or finite(result.objective) is None:
        return None
    if not math.isclose(sum(scores) / len(scores), result.objective or 0.0, rel_tol=1e-5, abs_tol=1e-9):
        return None
    if set(scores) <= {0.0, 1.0}:
        return wilson_interval(round(sum(scores)), len(scores))
    return mean_interval(scores)


def tied(ranked: Sequence[TrialResult], objective: str) -> frozenset[int]:
    """Return the numbers of the trials that the validation examples cannot tell from the best, and the best itself."""
    if not ranked:
        return frozenset()
    comparable = {r.number: r.scores for r in ranked if is_comparable(r, ranked[0])}
    found = tied_with_best(comparable, maximize=is_maximized(objective))
    return frozenset(found | {ranked[0].number})


def is_comparable(result: TrialResult, best: TrialResult) -> bool:
    """Tell whether both answered the same examples, with a finite score each."""
    is_same = examples_of(result) == examples_of(best) and len(result.scores) == len(best.scores)
    return bool(result.scores) and is_same and all(map(math.isfinite, result.scores))


def examples_of(result: TrialResult) -> tuple[object, ...]:
    """Return what names the scored examples: their digest, or in older results the settings that chose them."""
    if result.examples:
        return (result.examples,)
    return (result.spec.model.id, replace(result.spec.data, limit=None), result.spec.eval.limit)


def pareto(ranked: Sequence[TrialResult], objective: str) -> frozenset[int]:
    """Return the trials that no other beats in objective, forgetting and trainable parameters together."""
    sign = -1 if is_maximized(objective) else 1
    costs = {r.number: _costs(r, sign) for r in ranked}
    return frozenset(n for n, mine in costs.items() if not any(_dominates(other, mine) for other in costs.values()))


def _costs(result: TrialResult, sign: int) -> tuple[float, float, float]:
    forgetting = finite(result.metrics.get("forgetting"))
    return (
        sign * (finite(result.objective) or 0.0),
        math.inf if forgetting is None else forgetting,
        result.cost.trainable_parameters,
    )


def _dominates(first: tuple[float, ...], second: tuple[float, ...]) -> bool:
    return first != second and all(a <= b for a, b in zip(first, second, strict=True))
