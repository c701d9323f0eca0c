"""Measure forgetting: probes answered before and after fine-tuning, compared example by example.

A probe's value is the mean of its per-example scores, so value and interval describe the same number; a loss probe
therefore weights all examples equally, whatever their length. As in `evaluation.statistics`, intervals cover the choice
of examples but not the training seed.

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
    """A probe's scores, one per example, in a fixed order.

    `chance` is the expected score of guessing (1 / options for multiple choice). `metric` must be a key of
    `evaluation.metrics.METRICS`, which defines its direction.
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
    """The change of one probe. `drop` is in the metric's units and positive if worse, for either direction."""

    name: str
    metric: str
    before: float
    after: float
    drop: Interval
    relative_drop: float | None  # share of the ability or likelihood lost; None if there was none above chance
    left_out: str | None  # why it is not part of the mean; None if it is


FORGETTING = ("forgetting", "forgetting_likelihood")  # the two means of `Forgetting`, also metrics of a trial


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgetting:
    """All probes, and the mean relative drops of those that are not left out (None if all are).

    `forgetting` is the lost share of the ability above chance: 0 for nothing, 1 if only guessing is left.
    `forgetting_likelihood` is the lost share of a token's likelihood, for probes scored by loss or perplexity. These
    are different quantities, so they are never averaged together.
    """

    probes: tuple[ProbeDrop, ...]
    forgetting: Interval | None
    forgetting_likelihood: Interval | None


def forgetting(
    before: Mapping[str, ProbeScore], after: Mapping[str, ProbeScore], *, resamples: int = 2000, seed: int = 0
) -> Forgetting:
    """Compare probes by key. Raises ValueError if keys or examples differ before and after."""
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
    # For errors the sign changes, so that a positive difference is a loss in both cases.
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
    """Return why a probe is left out: a model cannot forget an ability unless its score was surely above chance."""
    if len(before.scores) < 2:
        return "a single example gives no interval"
    if not before.is_maximized:
        return None
    known = mean_interval(before.scores, resamples=resamples, seed=seed)
    if known.low > before.chance:
        return None
    return f"baseline {known.value:.3f} (95% from {known.low:.3f}) is not above chance {before.chance:.3f}"


def _mean_relative_drop(pairs: Sequence[tuple[ProbeScore, ProbeScore]], resamples: int, seed: int) -> Interval | None:
    """Bootstrap percentiles: examples are resampled within each probe, before and after together; probes are fixed."""
    if not pairs:
        return None
    drops_B = np.zeros(resamples)
    for offset, (before, after) in enumerate(pairs):
        means_B2 = resampled_means(np.array([before.scores, after.scores]).T, resamples=resamples, seed=seed + offset)
        drops_B += _relative_drops(before, means_B2[:, 0], means_B2[:, 1]) / len(pairs)
    # A resample at chance before training has no relative drop (NaN); a probe that counts has almost none of these.
    low, high = np.nanquantile(drops_B, (0.025, 0.975))
    return Interval(value=fmean(_value_drop(*pair) for pair in pairs), low=float(low), high=float(high))


def _value_drop(before: ProbeScore, after: ProbeScore) -> float:
    return float(_relative_drops(before, np.array([before.value]), np.array([after.value]))[0])


def _relative_drops(probe: ProbeScore, before: Floats, after: Floats) -> Floats:
    """Elementwise (before - after) / (before - chance) for scores; NaN if `before` is not above chance."""
    if probe.token_mean:
        return probe.token_mean.likelihood_lost(before, after)
    known = before - probe.chance
    return (before - after) / np.where(known > 0, known, np.nan)
