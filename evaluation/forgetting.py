"""Measure what fine-tuning made a model forget: probes answered before and after, compared example by example.

A probe's value is the mean of its per-example scores, so that value and interval speak of the same number; a loss probe
therefore counts every example the same, however long. As everywhere in `evaluation.statistics`, intervals cover
the choice of examples and not the training seed.

Legend: B resamples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from evaluation.metrics import METRICS, TokenMean
from evaluation.statistics import Floats, Interval, mean_interval, paired_difference, resampled_means


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeScore:
    """One probe's scores, one per example, in a fixed order.

    `chance` is what guessing scores (1 / options for multiple choice). Errors: `metric` must stand in
    `evaluation.metrics.METRICS`, which knows its direction.
    """

    name: str
    metric: str
    scores: tuple[float, ...]
    chance: float = 0.0

    @property
    def value(self) -> float:
        return fmean(self.scores)

    @property
    def is_maximized(self) -> bool:
        return METRICS[self.metric].is_maximized

    @property
    def token_mean(self) -> TokenMean | None:
        return METRICS[self.metric].token_mean


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeDrop:
    """How far one probe fell. `drop` is in the metric's units and positive when worse, whatever its direction."""

    name: str
    metric: str
    before: float
    after: float
    drop: Interval
    relative_drop: float | None  # share of the ability or likelihood lost; None where there was none above chance
    left_out: str | None  # why it does not count in the mean; None where it does


FORGETTING = ("forgetting", "forgetting_likelihood")  # the two means of `Forgetting`, which are metrics of a trial


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgetting:
    """All probes, and mean relative drops of those that count (None when none does).

    `forgetting` is the share of the ability above chance that was lost: 0 nothing, 1 all, so that guessing is left.
    `forgetting_likelihood` is the share of a token's likelihood lost, of probes scored by loss or perplexity. These are
    different quantities, so they are never averaged together.
    """

    probes: tuple[ProbeDrop, ...]
    forgetting: Interval | None
    forgetting_likelihood: Interval | None


def forgetting(
    before: Mapping[str, ProbeScore], after: Mapping[str, ProbeScore], *, resamples: int = 2000, seed: int = 0
) -> Forgetting:
    """Compare probes joined by their key. Raises ValueError when the two sides hold other probes or other examples."""
    if before.keys() != after.keys():
        raise ValueError(f"probes on one side only: {sorted(before.keys() ^ after.keys())}")
    drops = {key: _probe_drop(before[key], after[key], resamples, seed) for key in before}
    counted = [key for key, drop in drops.items() if drop.left_out is None]
    pairs = [(before[key], after[key]) for key in counted]
    by_likelihood = [pair for pair in pairs if pair[0].token_mean]
    by_score = [pair for pair in pairs if not pair[0].token_mean]
    return Forgetting(
        probes=tuple(drops.values()),
        forgetting=_mean_relative_drop(by_score, resamples, seed),
        forgetting_likelihood=_mean_relative_drop(by_likelihood, resamples, seed),
    )


def _probe_drop(before: ProbeScore, after: ProbeScore, resamples: int, seed: int) -> ProbeDrop:
    if before.metric != after.metric:
        raise ValueError(f"probe {before.name}: scored by {before.metric} before and by {after.metric} after")
    # Scores minus errors: either way the difference is what was lost.
    first, second = (before, after) if before.is_maximized else (after, before)
    relative_drop = _value_drop(before, after)
    return ProbeDrop(
        name=before.name,
        metric=before.metric,
        before=before.value,
        after=after.value,
        drop=paired_difference(first.scores, second.scores, resamples=resamples, seed=seed),
        relative_drop=None if math.isnan(relative_drop) else relative_drop,
        left_out=_why_left_out(before, resamples, seed),
    )


def _why_left_out(before: ProbeScore, resamples: int, seed: int) -> str | None:
    """A model cannot forget what it did not know: the interval of the value before must clear chance."""
    if len(before.scores) < 2:
        return "a single example says nothing of the spread"
    if not before.is_maximized:
        return None
    known = mean_interval(before.scores, resamples=resamples, seed=seed)
    if known.low > before.chance:
        return None
    return f"baseline {known.value:.3f} (95% from {known.low:.3f}) is not above chance {before.chance:.3f}"


def _mean_relative_drop(pairs: Sequence[tuple[ProbeScore, ProbeScore]], resamples: int, seed: int) -> Interval | None:
    """Percentile bootstrap within probes: examples are redrawn, before and after together; the probes are given."""
    if not pairs:
        return None
    drops_B = np.zeros(resamples)
    for offset, (before, after) in enumerate(pairs):
        means_B2 = resampled_means(np.array([before.scores, after.scores]).T, resamples=resamples, seed=seed + offset)
        drops_B += _relative_drops(before, means_B2[:, 0], means_B2[:, 1]) / len(pairs)
    # A resample whose value before is at chance has no relative drop (NaN); a probe that counts has next to none.
    low, high = np.nanquantile(drops_B, (0.025, 0.975))
    return Interval(value=fmean(_value_drop(*pair) for pair in pairs), low=float(low), high=float(high))


def _value_drop(before: ProbeScore, after: ProbeScore) -> float:
    return float(_relative_drops(before, np.array([before.value]), np.array([after.value]))[0])


def _relative_drops(probe: ProbeScore, before: Floats, after: Floats) -> Floats:
    """Elementwise; of scores (before - after) / (before - chance), NaN where the value before is not above chance."""
    if probe.token_mean:
        return probe.token_mean.likelihood_lost(before, after)
    known = before - probe.chance
    return (before - after) / np.where(known > 0, known, np.nan)
