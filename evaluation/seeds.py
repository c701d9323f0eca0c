"""Confidence intervals of a mean over examples and training seeds.

Legend: M seeds, N examples, K trials (settings, each trained with one or more seeds).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.statistics import Floats, Interval, finite_scores

Scores = Sequence[float] | Sequence[Sequence[float]]
"""One score per example, or one such list per seed."""

STEPS = 20_001  # of the integral in `t_quantile`: six correct digits for 1 or more degrees of freedom


def crossed_interval(scores: Sequence[Sequence[float]], *, level: float = 0.95) -> Interval:
    """Return the mean of a configuration's scores, one list per seed over the same examples, with its interval.

    The interval covers other examples *and* other seeds. Variances of a crossed design (examples, seeds, and their
    interaction, which is counted once), with Student's t at Satterthwaite's (1946) degrees of freedom. If all scores
    are 0 or 1 the interval is Wilson's (1927), with the number of examples that would give this variance, so that it
    has width at 0 and 1. Raises ValueError on fewer than two seeds or examples.
    """
    table_MN = table_of(scores)
    if min(table_MN.shape) < 2:
        raise ValueError(f"an interval over seeds and examples needs two of each; got {table_MN.shape}")
    mean = float(table_MN.mean())
    variance, degrees = _variance(table_MN)
    quantile = t_quantile(level, degrees)
    if set(np.unique(table_MN)) <= {0.0, 1.0}:
        return _proportion(mean, variance, quantile, table_MN.shape)
    half = quantile * math.sqrt(variance)
    return Interval(value=mean, low=mean - half, high=mean + half)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedNoise:
    """The variance due to seeds of each trial's mean over examples and seeds, and its degrees of freedom."""

    variance_K: Floats
    degrees: int


def seed_noise(tables: Sequence[Floats], *, keeps_larger: bool = True) -> SeedNoise | None:
    """Pool the variance between seeds over all trials; with `keeps_larger` a trial keeps its own variance if larger.

    Trials with one seed get the pooled variance too. None if no trial has two seeds.
    """
    repeated = [table.mean(axis=1) for table in tables if len(table) > 1]
    if not repeated:
        return None
    degrees = sum(len(means) - 1 for means in repeated)
    pooled = sum(float(((means - means.mean()) ** 2).sum()) for means in repeated) / degrees
    has_own = [keeps_larger and len(table) > 1 for table in tables]
    own = [float(table.mean(axis=1).var(ddof=1)) if has else 0.0 for table, has in zip(tables, has_own, strict=True)]
    variances = [max(pooled, mine) / len(table) for mine, table in zip(own, tables, strict=True)]
    return SeedNoise(variance_K=np.array(variances), degrees=degrees)


def table_of(scores: Scores) -> Floats:
    """Return the scores as a table (M, N). Raises ValueError on missing or non-finite scores."""
    return np.stack([finite_scores(row) for row in np.atleast_2d(np.asarray(scores, dtype=np.float64))])


def example_means(tables: Sequence[Floats]) -> Floats:
    """Return each trial's mean over seeds (N, K), example by example. Raises ValueError on unequal example counts."""
    if len(lengths := {table.shape[1] for table in tables}) > 1:
        raise ValueError(f"trials must be scored on the same examples: got {sorted(lengths)} of them")
    return np.stack([table.mean(axis=0) for table in tables], axis=1)


def t_quantile(level: float, degrees: float) -> float:
    """Return t with P(-t < T < t) = level, for 1 or more degrees of freedom."""
    # With T = sqrt(degrees) * tan(angle) the density is cos(angle) ** (degrees - 1).
    angles = np.linspace(0, math.pi / 2, STEPS)
    density = np.cos(angles) ** (degrees - 1)
    mass = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return math.sqrt(degrees) * math.tan(float(np.interp(level, mass / mass[-1], angles)))


def _variance(table_MN: Floats) -> tuple[float, float]:
    """Return the variance of the mean and its degrees of freedom."""
    num_seeds, num = table_MN.shape
    by_example, by_seed = table_MN.mean(axis=0), table_MN.mean(axis=1)
    left_MN = table_MN - by_example - by_seed[:, None] + table_MN.mean()
    examples, seeds = float(by_example.var(ddof=1)) / num, float(by_seed.var(ddof=1)) / num_seeds
    both = float((left_MN**2).sum()) / ((num_seeds - 1) * (num - 1)) / (num_seeds * num)
    variance = max(examples + seeds - both, examples, seeds)
    spread = examples**2 / (num - 1) + seeds**2 / (num_seeds - 1)
    return variance, max(1.0, (examples + seeds) ** 2 / spread) if spread else float(num - 1)


def _proportion(rate: float, variance: float, quantile: float, shape: tuple[int, ...]) -> Interval:
    num_seeds, num = shape
    total = min(rate * (1 - rate) / variance, num_seeds * num) if variance else num
    centre = (rate + quantile**2 / (2 * total)) / (1 + quantile**2 / total)
    half = quantile / (1 + quantile**2 / total) * math.sqrt(rate * (1 - rate) / total + quantile**2 / (4 * total**2))
    return Interval(value=rate, low=max(0.0, centre - half), high=min(1.0, centre + half))
