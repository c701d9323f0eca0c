"""Intervals over seeds and examples, and what picking the best is worth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats  # type: ignore[import-untyped,unused-ignore]

from evaluation.optimism import expected_optimism
from evaluation.seeds import crossed_interval, seed_noise, t_quantile


@pytest.mark.parametrize("degrees", [1, 1.7, 2, 5, 30, 159])
def test_t_quantiles_agree_with_scipy(degrees: float) -> None:
    assert t_quantile(0.95, degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-5)


@pytest.mark.parametrize("seeds", [2, 3])
def test_a_crossed_interval_covers_the_truth_about_as_often_as_it_says(seeds: int) -> None:
    rng, covered = np.random.default_rng(0), 0
    for _ in range(300):
        scores = rng.normal(size=(1, 100)) + 0.1 * rng.normal(size=(seeds, 1)) + 0.5 * rng.normal(size=(seeds, 100))
        interval = crossed_interval(scores.tolist())
        covered += interval.low <= 0 <= interval.high
    assert 0.91 <= covered / 300 <= 0.985


def test_seeds_that_differ_widen_the_interval() -> None:
    ease = np.random.default_rng(0).random(100)
    alike = [(ease < 0.7).astype(float).tolist()] * 2
    apart = [(ease < share).astype(float).tolist() for share in (0.6, 0.8)]
    narrow, wide = crossed_interval(alike), crossed_interval(apart)
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)
    assert wide.low >= 0 and wide.high <= 1


def test_a_crossed_interval_of_perfect_scores_still_has_width() -> None:
    assert 0.80 < crossed_interval([[1.0] * 20] * 3).low < 1 - 0.1611  # Wilson with Student's t


def test_an_interval_over_seeds_needs_two_of_them() -> None:
    with pytest.raises(ValueError, match="two of each"):
        crossed_interval([[1.0, 0.0]])


def test_a_trial_with_one_seed_gets_the_seed_noise_of_the_others() -> None:
    noise = seed_noise([np.array([[0.0, 0.0], [1.0, 1.0]]), np.array([[0.5, 0.5]])])
    assert noise is not None and noise.degrees == 1
    assert noise.variance_K.tolist() == [0.25, 0.5]
    assert seed_noise([np.array([[0.0, 1.0]])] * 3) is None


def simulated(num_trials: int, spread: float, rng: np.random.Generator) -> tuple[list[list[float]], np.ndarray]:
    rates = 0.7 + spread * rng.normal(size=num_trials)
    return [(rng.random(160) < rate).astype(float).tolist() for rate in rates], rates


@pytest.mark.parametrize(("spread", "closeness"), [(0.0, 0.15), (0.05, 0.35)])
def test_the_expected_optimism_is_what_the_winner_loses_on_fresh_examples(spread: float, closeness: float) -> None:
    rng, expected, lost = np.random.default_rng(0), [], []
    for _ in range(150):
        scores, rates = simulated(12, spread, rng)
        means = [np.mean(row) for row in scores]
        winner = int(np.argmax(means))
        lost.append(means[winner] - rates[winner])
        expected.append(expected_optimism(scores, maximize=True, resamples=300))
    assert np.mean(expected) == pytest.approx(np.mean(lost), rel=closeness)


def test_a_loss_is_flattered_downwards() -> None:
    losses = np.random.default_rng(0).normal(size=(5, 50))
    assert expected_optimism((-losses).tolist(), maximize=True) == expected_optimism(losses.tolist(), maximize=False)
    assert expected_optimism(losses.tolist(), maximize=False) > 0


def test_there_is_no_picking_among_one_trial() -> None:
    assert expected_optimism([[1.0, 0.0, 1.0]], maximize=True) == 0
