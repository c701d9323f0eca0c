"""Compute the certainty of a ranking: intervals, ties, the expected optimism of the best, and the Pareto front."""

import math
from collections.abc import Sequence
from dataclasses import asdict

from evaluation.metrics import METRICS
from evaluation.optimism import expected_optimism
from evaluation.seeds import crossed_interval
from evaluation.statistics import Interval, mean_interval, ratio_interval, wilson_interval
from evaluation.ties import tied_with_best
from lorasweep.core.result import BaseScore, TrialResult
from lorasweep.study.selection import Configuration, examples_of, finite

Scored = TrialResult | BaseScore


def interval_of(found: Configuration, objective: str) -> Interval | None:
    """Return the objective's 95% interval over examples, and over seeds if there are two or more.

    None if the objective cannot be computed from scores per example, such as a macro F1: an interval around another
    number would mislead.
    """
    if not all(_is_mean(result, objective) and len(result.scores) > 1 for result in found.ranked):
        return None
    if len(found.ranked) > 1:
        return crossed_interval([contributions(result, objective) for result in found.ranked])
    return _over_examples(found.result, objective)


def interval_of_base(base: BaseScore, objective: str) -> Interval | None:
    """Return the 95% interval of a base's objective; None if it cannot be computed from scores per example."""
    value = finite(base.metrics.get(objective))
    if value is None or len(base.scores) < 2 or not _is_mean_of(base, objective, value):
        return None
    return _over_examples(base, objective)


def contributions(result: Scored, objective: str) -> tuple[float, ...]:
    """Return one number per example; their mean is the objective if it can be computed from scores per example.

    A loss over all tokens is a ratio of sums: it is linearised, so that long examples have a larger weight.
    """
    over = METRICS[objective].token_mean
    if over is None or not result.num_tokens or not all(map(math.isfinite, result.scores)):
        return result.scores
    losses, weights = [over.to_nats(score) for score in result.scores], _weights(result)
    total = sum(loss * weight for loss, weight in zip(losses, weights, strict=True)) / len(losses)
    parts = [(loss - total) * weight for loss, weight in zip(losses, weights, strict=True)]
    return tuple(over.linear(total, part) for part in parts)


def tied(ranked: Sequence[Configuration], objective: str) -> frozenset[int]:
    """Return the trial numbers of the best row and of the rows that do not differ significantly from it."""
    if not ranked:
        return frozenset()
    best = ranked[0].result.number
    scores = {n: [compared(r, objective) for r in found.ranked] for n, found in _comparable(ranked).items()}
    found = tied_with_best(scores, maximize=METRICS[objective].is_maximized, best=best) if best in scores else set()
    return frozenset(found | {best})


def optimism(ranked: Sequence[Configuration], objective: str) -> float | None:
    """Return the expected bias of the best objective, in its units, because it is the best; None if unknown."""
    if len(ranked) < 2 or not all(_is_mean(result, objective) for found in ranked for result in found.ranked):
        return None
    if len(_comparable(ranked)) < len(ranked):
        return None
    scores = [[contributions(r, objective) for r in found.ranked] for found in ranked]
    return expected_optimism(scores, maximize=METRICS[objective].is_maximized)


def is_comparable(result: TrialResult, best: TrialResult) -> bool:
    """Return whether both were scored on the same examples, with a finite score for each example of `result`."""
    is_same = examples_of(result) == examples_of(best) and len(result.scores) == len(best.scores)
    return bool(result.scores) and is_same and all(map(math.isfinite, result.scores))


def are_comparable(found: Configuration, best: Configuration) -> bool:
    """Return whether all seeds of both were scored on the same examples."""
    return all(is_comparable(result, best.result) for result in (*found.ranked, *best.ranked))


def pareto(ranked: Sequence[Configuration], objective: str) -> frozenset[int]:
    """Return the trials on the Pareto front of objective, forgetting and trainable parameters."""
    sign = -1 if METRICS[objective].is_maximized else 1
    costs = {found.result.number: _costs(found, objective, sign) for found in ranked}
    return frozenset(n for n, mine in costs.items() if not any(_dominates(other, mine) for other in costs.values()))


def _comparable(ranked: Sequence[Configuration]) -> dict[int, Configuration]:
    """Return the configurations scored on the same examples as the best, by trial number."""
    return {found.result.number: found for found in ranked if are_comparable(found, ranked[0])}


def compared(result: Scored, objective: str) -> tuple[float, ...]:
    """Return one number per example for paired tests: weighted nats if the objective is a mean over tokens."""
    over = METRICS[objective].token_mean
    if over is None or not result.num_tokens:
        return result.scores
    return tuple(over.to_nats(score) * weight for score, weight in zip(result.scores, _weights(result), strict=True))


def _over_examples(result: Scored, objective: str) -> Interval:
    over = METRICS[objective].token_mean
    if over is not None and result.num_tokens:
        found = ratio_interval([over.to_nats(score) for score in result.scores], result.num_tokens)
        return Interval(**{end: over.from_nats(nats) for end, nats in asdict(found).items()})
    scores = result.scores
    if set(scores) <= {0.0, 1.0}:
        return wilson_interval(round(sum(scores)), len(scores))
    return mean_interval(scores)


def _is_mean(result: TrialResult, objective: str) -> bool:
    """Return whether the objective is the mean of the contributions; a macro F1 is not."""
    value = finite(result.objective)
    return value is not None and _is_mean_of(result, objective, value)


def _is_mean_of(result: Scored, objective: str, value: float) -> bool:
    if not result.scores or not all(map(math.isfinite, result.scores)):
        return False
    values = contributions(result, objective)
    return math.isclose(sum(values) / len(values), value, rel_tol=1e-5, abs_tol=1e-9)


def _weights(result: Scored) -> list[float]:
    return [len(result.num_tokens) * number / sum(result.num_tokens) for number in result.num_tokens]


def _costs(found: Configuration, objective: str, sign: int) -> tuple[float, float, float]:
    forgetting = found.metric("forgetting")
    return (
        sign * (found.objective(objective) or 0.0),
        math.inf if forgetting is None else forgetting,
        found.result.cost.trainable_parameters,
    )


def _dominates(first: tuple[float, ...], second: tuple[float, ...]) -> bool:
    return first != second and all(a <= b for a, b in zip(first, second, strict=True))
