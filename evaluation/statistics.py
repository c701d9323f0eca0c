"""Say how sure a score is, and which trials it cannot tell apart.

Every interval here answers one question: *had we drawn other evaluation examples, how different could this number be?*
It knows nothing of training noise: each trial was trained once, and another seed may move a score by more than this.

Legend: N examples, C columns resampled together, B resamples, K trials.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Key = TypeVar("Key", bound=Hashable)
Floats = NDArray[np.float64]

BLOCK_ELEMENTS = 2**22  # 32 MB of float64 at a time, whatever the size of the evaluation set
NORMAL = NormalDist()


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An estimate and the bounds of its interval, in the units of the score."""

    value: float
    low: float
    high: float


def mean_interval(scores: Sequence[float], *, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> Interval:
    """Mean with its bias-corrected and accelerated bootstrap interval (BCa; Efron, 1987).

    One example says nothing of the spread: its interval is (-inf, inf). When all scores are equal the interval has no
    width, which for 0/1 scores is too sure: use `wilson_interval` there. Raises ValueError on no or non-finite scores.
    """
    scores_N = _finite(scores)
    mean = float(scores_N.mean())
    if scores_N.size < 2:
        return Interval(value=mean, low=-math.inf, high=math.inf)
    means_B = resampled_means(scores_N[:, None], resamples=resamples, seed=seed)[:, 0]
    low, high = np.quantile(means_B, _bca_levels(scores_N, means_B, level))
    # Rounding may leave equal scores a hair off their own mean; error bars must not be negative.
    return Interval(value=mean, low=min(float(low), mean), high=max(float(high), mean))


def paired_difference(
    first: Sequence[float], second: Sequence[float], *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Mean of first - second over the same examples, by paired bootstrap: hard examples are hard for both."""
    if len(first) != len(second):
        raise ValueError(f"paired scores need the same examples: got {len(first)} and {len(second)}")
    return mean_interval(list(_finite(first) - _finite(second)), level=level, resamples=resamples, seed=seed)


def wilson_interval(successes: int, total: int, *, level: float = 0.95) -> Interval:
    """A proportion with its score interval (Wilson, 1927): honest at 0/N and N/N, where a bootstrap has no width."""
    if not 0 <= successes <= total or total == 0:
        raise ValueError(f"{successes} successes of {total}: need 0 <= successes <= total and total > 0")
    z, rate = NORMAL.inv_cdf((1 + level) / 2), successes / total
    centre = (rate + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(rate * (1 - rate) / total + z * z / (4 * total**2))
    return Interval(value=rate, low=max(0.0, centre - half), high=min(1.0, centre + half))


def tied_with_best(
    scores: Mapping[Key, Sequence[float]], *, maximize: bool, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> set[Key]:
    """The trials that these examples cannot tell from the best mean; the best is always among them.

    A trial is tied when the simultaneous `level` interval of its paired difference to the best includes 0. Covers one
    thing: which examples were asked. Every trial is ONE training seed, so "not tied" does not say that retraining would
    keep the order. And the best was picked for being best, which flatters it.

    Multiplicity: K - 1 comparisons are made at once, so each is held against the largest of all of them under random
    sign flips of the paired differences (max-T; Westfall & Young, 1993). The chance of turning any true tie away is
    1 - level together, and correlated trials cost less than under Holm. Below six examples no difference can be
    significant at 0.95, and all are tied. Raises ValueError on unequal lengths and non-finite scores: leave diverged
    trials out.
    """
    if not scores:
        return set()
    table = {key: _finite(values) for key, values in scores.items()}
    if len(lengths := {values.size for values in table.values()}) > 1:
        raise ValueError(f"trials must be scored on the same examples: got {sorted(lengths)} of them")
    best_N = (max if maximize else min)(table.values(), key=lambda values: float(values.mean()))
    deficits_NK = np.stack([best_N - values for values in table.values()], axis=1)
    p_K = _sign_flip_p_values(deficits_NK, flips=resamples, seed=seed)
    return {key for key, p in zip(table, p_K, strict=True) if p > 1 - level}


def resampled_means(scores_NC: Floats, *, resamples: int, seed: int) -> Floats:
    """(B, C) means of N rows drawn with replacement; a row's columns stay together, so that pairs stay pairs."""
    rng, num = np.random.default_rng(seed), len(scores_NC)
    sums = []
    for size in _block_sizes(resamples, num):
        # Counting how often each row was drawn turns the means into one matrix product.
        drawn = rng.integers(num, size=(size, num), dtype=np.int32) + num * np.arange(size, dtype=np.int32)[:, None]
        sums.append(np.bincount(drawn.ravel(), minlength=size * num).reshape(size, num) @ scores_NC)
    return np.concatenate(sums) / num


def _sign_flip_p_values(deficits_NK: Floats, *, flips: int, seed: int) -> Floats:
    """(K,) p-values adjusted for K comparisons, two-sided. Exact, whatever N, when the differences are symmetric."""
    scale_K = np.sqrt((deficits_NK**2).sum(axis=0))
    unit_NK = deficits_NK / np.where(scale_K > 0, scale_K, 1.0)
    rng, num = np.random.default_rng(seed), len(unit_NK)
    blocks = [rng.integers(2, size=(size, num)) * 2.0 - 1.0 for size in _block_sizes(flips, num)]
    largest_B = np.concatenate([np.abs(signs_BN @ unit_NK).max(axis=1) for signs_BN in blocks])
    # The tolerance keeps the identity flip a tie with itself; 1 + counts the observed signs as one of the flips.
    reached_K = (largest_B[:, None] >= np.abs(unit_NK.sum(axis=0)) - 1e-9).sum(axis=0)
    return np.asarray((1 + reached_K) / (1 + flips), dtype=np.float64)


def _bca_levels(scores_N: Floats, means_B: Floats, level: float) -> tuple[float, float]:
    """The two quantiles of the bootstrap means to read off; the acceleration of a mean needs no jackknife."""
    centred_N = scores_N - scores_N.mean()
    spread = float((centred_N**2).sum())
    acceleration = float((centred_N**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0
    mean, half = scores_N.mean(), 0.5 / means_B.size
    below = float((means_B < mean).mean() + (means_B == mean).mean() / 2)
    bias = NORMAL.inv_cdf(min(max(below, half), 1 - half))
    shifted = [bias + NORMAL.inv_cdf(tail) for tail in ((1 - level) / 2, (1 + level) / 2)]
    low, high = (NORMAL.cdf(bias + z / (1 - acceleration * z)) for z in shifted)
    return low, high


def _block_sizes(resamples: int, num: int) -> Iterator[int]:
    block = max(1, BLOCK_ELEMENTS // num)
    yield from (min(block, resamples - start) for start in range(0, resamples, block))


def _finite(scores: Sequence[float]) -> Floats:
    array = np.asarray(scores, dtype=np.float64)
    if array.size == 0 or not np.isfinite(array).all():
        raise ValueError(
            f"need at least one score, all finite; got {array.size} with {(~np.isfinite(array)).sum()} bad"
        )
    return array
