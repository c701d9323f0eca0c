from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats  # type: ignore[import-untyped,unused-ignore]

from evaluation.statistics import mean_interval, paired_difference, ratio_interval, resampled_means, wilson_interval


def skewed_scores(num: int, seed: int = 0) -> list[float]:
    return [float(score) for score in np.random.default_rng(seed).exponential(size=num)]


def test_wilson_interval_equals_the_textbook_values() -> None:
    # Newcombe (1998), table I: 81/263, 15/148, 0/20 and 1/29 by the score method without continuity correction.
    table = [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611), (1, 29, 0.0061, 0.1718)]
    for successes, total, low, high in table:
        interval = wilson_interval(successes, total)
        assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-5)
        assert interval.value == successes / total


def test_wilson_interval_has_width_when_every_answer_is_right() -> None:
    assert wilson_interval(20, 20).low == pytest.approx(1 - 0.1611, abs=5e-5)
    assert wilson_interval(20, 20).high == 1


@pytest.mark.parametrize(("successes", "total"), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_interval_refuses_what_is_no_proportion(successes: int, total: int) -> None:
    with pytest.raises(ValueError, match="successes"):
        wilson_interval(successes, total)


def test_mean_interval_agrees_with_scipy() -> None:
    scores = skewed_scores(60)
    ours = mean_interval(scores, resamples=20_000)
    theirs = stats.bootstrap((scores,), np.mean, n_resamples=20_000, method="BCa", rng=1).confidence_interval
    assert ours.value == pytest.approx(np.mean(scores))
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)
    # A percentile interval would be lower, so the check above distinguishes the two.
    plain = stats.bootstrap((scores,), np.mean, n_resamples=20_000, method="percentile", rng=1).confidence_interval
    assert abs(plain.high - theirs.high) > 0.03


def test_mean_interval_has_about_its_nominal_coverage() -> None:
    intervals = [mean_interval(skewed_scores(80, seed), resamples=500) for seed in range(300)]
    covered = np.mean([interval.low <= 1.0 <= interval.high for interval in intervals])
    assert 0.90 < covered < 0.98


def test_the_same_seed_gives_the_same_interval() -> None:
    scores = skewed_scores(50)
    assert mean_interval(scores) == mean_interval(scores)
    assert mean_interval(scores) != mean_interval(scores, seed=1)


def test_equal_scores_have_an_interval_without_width_and_one_score_an_endless_one() -> None:
    tenths = mean_interval([0.1] * 7)
    assert tenths.low == pytest.approx(0.1)
    assert tenths.low <= tenths.value <= tenths.high
    assert (mean_interval([0.3]).low, mean_interval([0.3]).high) == (-math.inf, math.inf)


@pytest.mark.parametrize("scores", [[], [0.5, math.nan], [math.inf, 1.0]])
def test_missing_scores_are_refused_not_averaged(scores: list[float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        mean_interval(scores)


def test_pairing_finds_a_difference_that_unpaired_noise_would_hide() -> None:
    hardness, noise = np.random.default_rng(0).normal(size=(2, 100))
    first, second = list(hardness + 0.1), list(hardness + 0.1 * noise)
    difference = paired_difference(first, second)
    assert difference.low > 0
    assert mean_interval(first).low < mean_interval(second).value
    reverse = paired_difference(second, first)
    assert (reverse.value, reverse.high) == pytest.approx((-difference.value, -difference.low), abs=0.01)


def test_paired_difference_needs_the_same_examples() -> None:
    with pytest.raises(ValueError, match="got 2 and 3"):
        paired_difference([1, 0], [1, 0, 1])


def test_resampling_keeps_pairs_together_and_blocks_change_no_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.array(skewed_scores(30))
    means = resampled_means(np.stack([scores, 2 * scores], axis=1), resamples=64, seed=0)
    np.testing.assert_allclose(means[:, 1], 2 * means[:, 0])
    monkeypatch.setattr("evaluation.statistics.BLOCK_ELEMENTS", 100)
    in_blocks = resampled_means(scores[:, None], resamples=64, seed=0)
    assert in_blocks.shape == (64, 1)
    assert in_blocks.mean() == pytest.approx(scores.mean(), abs=0.1)


def test_a_ratio_interval_weighs_long_examples_as_the_corpus_does() -> None:
    losses, tokens = [2.0, 1.0, 3.0, 1.5], [10, 1, 5, 4]
    interval = ratio_interval(losses, tokens)
    assert interval.value == pytest.approx((20 + 1 + 15 + 6) / 20)
    assert interval.low < interval.value < interval.high


def test_a_ratio_interval_has_about_its_nominal_coverage() -> None:
    covered = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        tokens = rng.integers(1, 20, size=120)
        losses = rng.gamma(2.0, 0.5, size=120) + 0.02 * tokens  # longer examples are harder: sum of t*l over sum of t
        truth = 1.0 + 0.02 * np.mean(np.arange(1, 20) ** 2) / np.mean(np.arange(1, 20))
        interval = ratio_interval(losses.tolist(), tokens.tolist(), resamples=400)
        covered += int(interval.low <= truth <= interval.high)
    assert 0.90 < covered / 200 < 0.98


@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.0]])
def test_a_ratio_needs_a_positive_weight_per_score(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="positive weight"):
        ratio_interval([1.0, 2.0], weights)


def test_an_interval_of_half_right_answers_is_symmetric() -> None:
    """A sixth of the resamples equal the mean; half of them count for each side."""
    interval = mean_interval([0.0, 1.0] * 10)
    assert interval.low + interval.high == pytest.approx(1, abs=0.03)


def test_a_lower_level_gives_a_narrower_interval() -> None:
    half, most = (mean_interval(skewed_scores(200), level=level) for level in (0.5, 0.95))
    assert (half.high - half.low) / (most.high - most.low) == pytest.approx(0.674 / 1.96, rel=0.1)
