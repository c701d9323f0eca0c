"""References for trials: the untouched base, guessing, and always answering the most frequent label."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evaluation.metrics import METRICS
from evaluation.statistics import Interval
from evaluation.ties import tied_with_best
from lorasweep.core.result import BaseScore, TrialResult
from lorasweep.report.ranking import compared, interval_of_base
from lorasweep.study.selection import Configuration, examples_of, finite

CHANCE, MAJORITY, BASE = "chance", "majority", "base"
OF_THE_BASE = ("model.", "data.template")  # swept settings that change the base or its prompts


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A row of the leaderboard without trials; it has no rank."""

    name: str
    objective: float | None
    metrics: Mapping[str, float]
    interval: Interval | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


def references(ranked: Sequence[Configuration], objective: str) -> tuple[Reference, ...]:
    """Return every base of the ranked configurations, then chance and the majority class if they are known."""
    bases = _bases(ranked)
    found = [
        Reference(
            name=BASE,
            objective=finite(score.metrics.get(objective)),
            metrics=score.metrics,
            interval=interval_of_base(score, objective),
            settings={k: v for k, v in result.trial.effective.items() if k.startswith(OF_THE_BASE)},
        )
        for result, score in bases
    ]
    return (*found, *_without_model([score for _, score in bases], objective))


def better_than_base(ranked: Sequence[Configuration], objective: str) -> frozenset[int] | None:
    """Return the trials that are significantly better than their base; None if no base was scored.

    All trials and bases are tested together, so that the best of many is not better by chance.
    """
    bases = [score for _, score in _bases(ranked)]
    first = ranked[0].result if bases else None
    same = [found for found in ranked if first and all(_can_be_paired(result, first) for result in found.ranked)]
    if not same:
        return None
    scores: dict[object, list[tuple[float, ...]]] = {
        found.result.number: [compared(result, objective) for result in found.ranked] for found in same
    }
    scores |= {(BASE, place): [compared(score, objective)] for place, score in enumerate(bases)}
    sign = 1 if METRICS[objective].is_maximized else -1
    better: set[int] = set()
    for place, score in enumerate(bases):
        tied = tied_with_best(scores, maximize=METRICS[objective].is_maximized, best=(BASE, place))
        own = [found for found in same if found.result.base == score and found.result.number not in tied]
        better |= {
            f.result.number for f in own if sign * (f.objective(objective) or 0.0) > sign * score.metrics[objective]
        }
    return frozenset(better)


def _bases(ranked: Sequence[Configuration]) -> list[tuple[TrialResult, BaseScore]]:
    """Return each distinct base with the first trial that uses it."""
    found: list[tuple[TrialResult, BaseScore]] = []
    for result in (one.result for one in ranked):
        if result.base is not None and all(result.base != score for _, score in found):
            found.append((result, result.base))
    return found


def _can_be_paired(result: TrialResult, first: TrialResult) -> bool:
    base = result.base
    if base is None or examples_of(result) != examples_of(first):
        return False
    lengths = {len(result.scores), len(base.scores), len(first.scores)}
    return lengths == {len(first.scores)} and bool(first.scores) and all(finite(s) is not None for s in
                                                                        (*result.scores, *base.scores))  # fmt: skip


def _without_model(bases: Sequence[BaseScore], objective: str) -> Iterator[Reference]:
    for name, metrics in ((CHANCE, [b.chance for b in bases]), (MAJORITY, [b.majority for b in bases])):
        for scores in metrics[:1]:  # equal for all bases: they share the examples
            if scores:
                yield Reference(name=name, objective=scores.get(objective), metrics=scores)
