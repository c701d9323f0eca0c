"""Find the trials that are not significantly worse than the best one.

Legend: N examples, K trials, M seeds of a trial, F sign flips.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from evaluation.seeds import Scores, SeedNoise, example_means, seed_noise, table_of
from evaluation.statistics import Floats, block_sizes

Key = TypeVar("Key", bound=Hashable)
Booleans = NDArray[np.bool_]

ROUNDING = 1e-9  # of a statistic, so that the observed signs count as equal to themselves
RESOLUTION = 1e-12  # relative; smaller sums of squares are rounding errors


def tied_with_best(
    scores: Mapping[Key, Scores],
    *,
    maximize: bool,
    best: Key | None = None,
    level: float = 0.95,
    flips: int = 2000,
    seed: int = 0,
) -> set[Key]:
    """Return the trials that do not differ significantly from the one with the best mean, or from `best`, including it.

    A trial has one list of scores, one score per example, or one such list per training seed.

    The test covers all pairs: with probability `level`, no two trials of equal expectation are called different,
    whichever is best. Each pair's difference is divided by its standard error and compared with the largest of all
    pairs under the same random sign flips of examples (max-T); significant pairs are then removed and the others tested
    again (step-down; Westfall & Young, 1993; Romano & Wolf, 2005), so that a very bad trial does not hide differences
    between good ones.

    With one seed per trial only examples vary. Then adapters are compared, not their settings: another seed may change
    their order. If a trial has two or more seeds, `seed_noise` is added for all trials, to the differences and to their
    null distribution (normal, with a chi-square variance): in simulated sweeps of equal settings, 0 to 3 % called any
    two settings different.

    With fewer than six examples nothing is significant at 0.95. Raises ValueError on unequal numbers of examples and on
    non-finite scores: leave diverged trials out.
    """
    if not scores:
        return set()
    tables = [table_of(values) for values in scores.values()]
    means_NK = example_means(tables) * (1 if maximize else -1)
    noise = seed_noise(tables)
    different_KK = _different(means_NK, noise, alpha=1 - level, flips=flips, seed=seed)
    place = int(means_NK.sum(axis=0).argmax()) if best is None else list(scores).index(best)
    return {key for key, is_different in zip(scores, different_KK[place], strict=True) if not is_different}


def _different(means_NK: Floats, noise: SeedNoise | None, *, alpha: float, flips: int, seed: int) -> Booleans:
    """Return which pairs differ significantly (K, K), tested all together."""
    centred_NK = means_NK - means_NK.mean(axis=1, keepdims=True)  # the same differences with smaller rounding errors
    null = _draw(centred_NK, noise, flips=flips, seed=seed)
    total_K = centred_NK.sum(axis=0)
    observed_KK = np.abs(total_K[:, None] - total_K) / _errors(null.squares_KK, null.noise_K[:, None] + null.noise_K)
    left_KK = np.triu(np.ones_like(observed_KK, dtype=bool), 1)
    different_KK = np.zeros_like(left_KK)
    while left_KK.any():
        largest_F = np.sort(null.largest(left_KK))
        reached_KK = flips - np.searchsorted(largest_F, observed_KK - ROUNDING)
        found_KK = left_KK & ((1 + reached_KK) / (1 + flips) <= alpha)  # 1 + includes the observed signs
        if not found_KK.any():
            break
        different_KK |= found_KK
        left_KK &= ~found_KK
    return np.asarray(different_KK | different_KK.T)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Null:
    """Draws of the trials' sums over examples, under the hypothesis that all trials have equal expectation."""

    sums_FK: Floats
    squares_KK: Floats  # of the differences, summed over examples: their variance under sign flips
    noise_K: Floats  # variance of the sums due to seeds
    spread_F: Floats  # of the estimate of that variance, around 1

    def largest(self, pairs_KK: Booleans) -> Floats:
        """Return the largest statistic of these pairs (F,); trial by trial, so that memory is O(K), not O(K * K)."""
        largest_F = np.zeros(len(self.sums_FK))
        for row in np.flatnonzero(pairs_KK.any(axis=1)):
            others = pairs_KK[row]
            gaps = np.abs(self.sums_FK[:, [row]] - self.sums_FK[:, others])
            noise = (self.noise_K[row] + self.noise_K[others]) * self.spread_F[:, None]
            np.maximum(largest_F, (gaps / _errors(self.squares_KK[row, others], noise)).max(axis=1), out=largest_F)
        return largest_F


def _draw(centred_NK: Floats, noise: SeedNoise | None, *, flips: int, seed: int) -> _Null:
    rng, (num, num_trials) = np.random.default_rng(seed), centred_NK.shape
    signs = (rng.integers(2, size=(size, num)) * 2.0 - 1.0 for size in block_sizes(flips, num))
    sums_FK = np.concatenate([signs_FN @ centred_NK for signs_FN in signs])
    products_KK = centred_NK.T @ centred_NK
    own_K = np.diag(products_KK)
    squares_KK = own_K[:, None] + own_K - 2 * products_KK
    squares_KK[squares_KK < RESOLUTION * own_K.max()] = 0.0
    if noise is None:
        return _Null(sums_FK=sums_FK, squares_KK=squares_KK, noise_K=np.zeros(num_trials), spread_F=np.ones(1))
    noise_K = noise.variance_K * num**2
    sums_FK += rng.normal(size=sums_FK.shape) * np.sqrt(noise_K)
    spread_F = rng.chisquare(noise.degrees, size=flips) / noise.degrees
    return _Null(sums_FK=sums_FK, squares_KK=squares_KK, noise_K=noise_K, spread_F=spread_F)


def _errors(squares: Floats, noise: Floats) -> Floats:
    """Return standard errors of differences; infinite if two trials never differ."""
    variance = squares + noise
    return np.sqrt(np.where(variance > 0, variance, np.inf))
