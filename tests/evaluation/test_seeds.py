"""Intervals over seeds and examples, and the expected optimism of the best."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats  # type: ignore[import-untyped,unused-ignore]

from evaluation.optimism import expected_optimism
from evaluation.seeds import crossed_interval, seed_noise, t_quantile
from evaluation.statistics import wilson_interval


@pytest.mark.parametrize("degrees", [1, 1.7, 2, 5, 30, 159])
def test_t_quantiles_agree_with_scipy(degrees: float) -> None:
    assert t_quantile(0.95, degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-5)


@pytest.mark.parametrize("seeds", [2, 3])
def test_a_crossed_interval_has_about_its_nominal_coverage(seeds: int) -> None:
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


def test_what_examples_and_seeds_share_is_counted_once() -> None:
    examples, both, seed = np.tile([1.0, -1.0], 20), np.tile([0.5, 0.5, -0.5, -0.5], 10), 0.2
    interval = crossed_interval([(examples + both + seed).tolist(), (examples - both - seed).tolist()])
    variances = 1 / 39, seed**2, 0.25 / 39  # of the mean: by examples, by seeds, and by what both contain
    degrees = (variances[0] + variances[1]) ** 2 / (variances[0] ** 2 / 39 + variances[1] ** 2)
    half = t_quantile(0.95, degrees) * (variances[0] + variances[1] - variances[2]) ** 0.5
    assert (interval.low, interval.high) == pytest.approx((-half, half))


def test_the_interval_of_a_share_is_not_narrower_than_its_number_of_answers_allows() -> None:
    """Seeds that are right in turn give examples hardly any spread; there are still only 80 answers."""
    first = [1.0, 0.0] * 20
    second = [1.0, *(1 - score for score in first[1:-1]), 0.0]
    interval, independent = crossed_interval([first, second]), wilson_interval(40, 80)
    assert interval.value == 0.5
    assert interval.high - interval.low >= independent.high - independent.low


def test_an_interval_over_seeds_needs_two_of_them() -> None:
    with pytest.raises(ValueError, match="two of each"):
        crossed_interval([[1.0, 0.0]])


def test_a_trial_with_one_seed_gets_the_seed_noise_of_the_others() -> None:
    noise = seed_noise([np.array([[0.0, 0.0], [1.0, 1.0]]), np.array([[0.5, 0.5]])])
    assert noise is not None and noise.degrees == 1
    assert noise.variance_K.tolist() == [0.25, 0.5]
    assert seed_noise([np.array([[0.0, 1.0]])] * 3) is None


def test_a_trial_whose_seeds_differ_more_keeps_its_own_noise() -> None:
    tables = [np.array([[0.0, 0.0], [1.0, 1.0]]), np.array([[0.5, 0.5], [0.5, 0.5]])]
    own, pooled = seed_noise(tables), seed_noise(tables, keeps_larger=False)
    assert own is not None and own.variance_K.tolist() == [0.25, 0.125]
    assert pooled is not None and pooled.variance_K.tolist() == [0.125, 0.125]


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


def test_the_expected_optimism_covers_seeds() -> None:
    rng, expected, lost = np.random.default_rng(0), [], []
    for _ in range(300):
        luck = 0.1 * rng.normal(size=(6, 3, 1)) + 0.5 * rng.normal(size=(6, 3, 60))
        lost.append(float(luck.mean(axis=(1, 2)).max()))  # all trials are equal
        expected.append(expected_optimism(luck.tolist(), maximize=True, resamples=200))
    assert np.mean(expected) == pytest.approx(np.mean(lost), rel=0.08)


def test_a_gap_of_one_standard_error_counts_as_no_gap() -> None:
    noise = np.random.default_rng(0).normal(size=100)
    noise = (noise - noise.mean()) / noise.std(ddof=1)
    equal, apart = ([[0.0] * 100, (noise + gap).tolist()] for gap in (0.0, 0.1))
    assert expected_optimism(apart, maximize=True) == pytest.approx(expected_optimism(equal, maximize=True))
