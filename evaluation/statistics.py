"""Confidence intervals of scores.

Every interval here answers one question: *with other evaluation examples, how different could this number be?* It does
not cover training: another seed may change a score by more. `evaluation.seeds` covers both.

Legend: N examples, C columns resampled together, B resamples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

BLOCK_ELEMENTS = 2**22  # 32 MB of float64 at a time, for any size of evaluation set
NORMAL = NormalDist()


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An estimate and the bounds of its interval, in the units of the score."""

    value: float
    low: float
    high: float


def mean_interval(scores: Sequence[float], *, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> Interval:
    """Return the mean with its bias-corrected and accelerated bootstrap interval (BCa; Efron, 1987).

    The interval of a single example is (-inf, inf). If all scores are equal it has no width, which is too narrow for
    0/1 scores: use `wilson_interval` for these. Raises ValueError on no or non-finite scores.
    """
    scores_N = finite_scores(scores)
    mean = float(scores_N.mean())
    if scores_N.size < 2:
        return Interval(value=mean, low=-math.inf, high=math.inf)
    means_B = resampled_means(scores_N[:, None], resamples=resamples, seed=seed)[:, 0]
    low, high = np.quantile(means_B, _bca_levels(scores_N, means_B, level))
    # By rounding, equal scores may differ slightly from their mean; error bars must not be negative.
    return Interval(value=mean, low=min(float(low), mean), high=max(float(high), mean))


def paired_difference(
    first: Sequence[float], second: Sequence[float], *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Return the mean of first - second over the same examples, by paired bootstrap: hard examples are so for both."""
    if len(first) != len(second):
        raise ValueError(f"paired scores need the same examples: got {len(first)} and {len(second)}")
    return mean_interval(
        list(finite_scores(first) - finite_scores(second)), level=level, resamples=resamples, seed=seed
    )


def ratio_interval(
    scores: Sequence[float], weights: Sequence[float], *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Return a weighted mean, such as nats per token over all tokens, with its percentile bootstrap interval.

    Examples are resampled with their weights. Raises ValueError on non-finite scores, on weights that are not positive,
    and if their numbers differ.
    """
    scores_N, weights_N = finite_scores(scores), finite_scores(weights)
    if len(scores_N) != len(weights_N) or not (weights_N > 0).all():
        raise ValueError(f"need one positive weight per score; got {len(weights_N)} for {len(scores_N)} scores")
    value = float(scores_N @ weights_N / weights_N.sum())
    if scores_N.size < 2:
        return Interval(value=value, low=-math.inf, high=math.inf)
    sums_B2 = resampled_means(np.stack([scores_N * weights_N, weights_N], axis=1), resamples=resamples, seed=seed)
    low, high = np.quantile(sums_B2[:, 0] / sums_B2[:, 1], [(1 - level) / 2, (1 + level) / 2])
    return Interval(value=value, low=min(float(low), value), high=max(float(high), value))


def wilson_interval(successes: int, total: int, *, level: float = 0.95) -> Interval:
    """Return a proportion with Wilson's (1927) score interval, which has width at 0/N and N/N, unlike a bootstrap's."""
    if not 0 <= successes <= total or total == 0:
        raise ValueError(f"{successes} successes of {total}: need 0 <= successes <= total and total > 0")
    z, rate = NORMAL.inv_cdf((1 + level) / 2), successes / total
    centre = (rate + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(rate * (1 - rate) / total + z * z / (4 * total**2))
    return Interval(value=rate, low=max(0.0, centre - half), high=min(1.0, centre + half))


def resampled_means(scores_NC: Floats, *, resamples: int, seed: int) -> Floats:
    """Return means (B, C) of N rows drawn with replacement; a row's columns stay together, so that pairs stay pairs."""
    rng, num = np.random.default_rng(seed), len(scores_NC)
    sums = []
    for size in block_sizes(resamples, num):
        # With counts of how often each row was drawn, the means are one matrix product.
        drawn = rng.integers(num, size=(size, num), dtype=np.int32) + num * np.arange(size, dtype=np.int32)[:, None]
        sums.append(np.bincount(drawn.ravel(), minlength=size * num).reshape(size, num) @ scores_NC)
    return np.concatenate(sums) / num


def _bca_levels(scores_N: Floats, means_B: Floats, level: float) -> tuple[float, float]:
    """Return the two quantile levels of the bootstrap means; the acceleration of a mean needs no jackknife."""
    centred_N = scores_N - scores_N.mean()
    spread = float((centred_N**2).sum())
    acceleration = float((centred_N**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0
    mean, half = scores_N.mean(), 0.5 / means_B.size
    below = float((means_B < mean).mean() + (means_B == mean).mean() / 2)
    bias = NORMAL.inv_cdf(min(max(below, half), 1 - half))
    shifted = [bias + NORMAL.inv_cdf(tail) for tail in ((1 - level) / 2, (1 + level) / 2)]
    low, high = (NORMAL.cdf(bias + z / (1 - acceleration * z)) for z in shifted)
    return low, high


def block_sizes(resamples: int, num: int) -> Iterator[int]:
    """Yield numbers of resamples to draw at a time, so that memory is bounded."""
    block = max(1, BLOCK_ELEMENTS // num)
    yield from (min(block, resamples - start) for start in range(0, resamples, block))


def finite_scores(scores: Sequence[float] | Floats) -> Floats:
    """Return the scores as an array (N,). Raises ValueError if there are none or one is not finite."""
    array = np.asarray(scores, dtype=np.float64)
    if array.size == 0 or not np.isfinite(array).all():
        raise ValueError(
            f"need at least one score, all finite; got {array.size} with {(~np.isfinite(array)).sum()} bad"
        )
    return array
