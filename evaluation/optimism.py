"""Estimate how much the score of the best of several trials overstates its true performance.

Legend: N examples, K trials, B resamples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evaluation.seeds import Scores, SeedNoise, example_means, seed_noise, table_of
from evaluation.statistics import Floats, resampled_means


def expected_optimism(scores: Sequence[Scores], *, maximize: bool, resamples: int = 2000, seed: int = 0) -> float:
    """Return the expected difference, at least 0, between the winner's score and its score on new examples.

    Each resample of the examples (and of the seeds, if trials have two or more) has its own winner; the difference is
    how much the resample overrates it. Resamples use the trials' means, shrunk towards their common mean by the share
    of their variance that noise explains: observed means vary more than true means do, and a plain bootstrap finds only
    two thirds of the difference if all trials are equal.

    With one seed per trial this covers the examples only; the seed's part is unknown and adds to it. Raises ValueError
    on unequal numbers of examples and on non-finite scores.
    """
    tables = [table_of(values) for values in scores]
    if len(tables) < 2:
        return 0.0
    means_NK = example_means(tables) * (1 if maximize else -1)
    noise = seed_noise(tables, keeps_larger=False)
    worth_K = _shrunk(means_NK, noise)
    luck_BK = resampled_means(means_NK, resamples=resamples, seed=seed) - means_NK.mean(axis=0)
    if noise is not None:
        luck_BK += np.random.default_rng(seed).normal(size=luck_BK.shape) * np.sqrt(noise.variance_K)
    winner_B = (worth_K + luck_BK).argmax(axis=1)
    return max(0.0, float(np.take_along_axis(luck_BK, winner_B[:, None], axis=1).mean()))


def _shrunk(means_NK: Floats, noise: SeedNoise | None) -> Floats:
    """Return the trials' means (K,), with the variance removed that examples and seeds explain."""
    mean_K = means_NK.mean(axis=0)
    num, num_trials = means_NK.shape
    spread = float(mean_K.var(ddof=1))
    if num < 2 or not spread:
        return np.asarray(mean_K)
    own_NK = means_NK - means_NK.mean(axis=1, keepdims=True)
    explained = float(own_NK.var(axis=0, ddof=1).mean()) / num * num_trials / (num_trials - 1)
    explained += float(noise.variance_K.mean()) if noise else 0.0
    return np.asarray(mean_K.mean() + max(0.0, 1 - explained / spread) * (mean_K - mean_K.mean()))
