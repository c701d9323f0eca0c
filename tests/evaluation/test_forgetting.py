from __future__ import annotations

import math

import numpy as np
import pytest

from evaluation.forgetting import ProbeScore, forgetting


def probe(*scores: float, metric: str = "accuracy", name: str = "probe", chance: float = 0.0) -> ProbeScore:
    return ProbeScore(name=name, metric=metric, scores=scores, chance=chance)


RIGHT_THEN_WRONG = (1.0,) * 80 + (0.0,) * 20
WORSE = (1.0,) * 60 + (0.0,) * 40


@pytest.mark.parametrize("metric", ["accuracy", "loss", "perplexity"])
def test_identical_scores_forget_exactly_nothing(metric: str) -> None:
    same = {"probe": probe(*[0.1, 0.7, 0.3] * 20, metric=metric)}
    result = forgetting(same, same)
    assert result.probes[0].drop.value == result.probes[0].relative_drop == 0
    mean = result.forgetting or result.forgetting_likelihood
    assert mean is not None and mean.value == 0
    for interval in (result.probes[0].drop, mean):
        assert interval.low == interval.high == 0


def test_an_accuracy_that_falls_from_80_to_60_percent_loses_a_quarter() -> None:
    result = forgetting({"qa": probe(*RIGHT_THEN_WRONG, name="qa")}, {"qa": probe(*WORSE, name="qa")})
    (drop,) = result.probes
    assert (drop.name, drop.before, drop.after) == ("qa", 0.8, 0.6)
    assert drop.drop.value == pytest.approx(0.2)
    assert drop.relative_drop == pytest.approx(0.25)
    assert result.forgetting is not None
    assert result.forgetting.value == pytest.approx(0.25)
    assert 0 < result.forgetting.low < 0.25 < result.forgetting.high < 0.5
    assert drop.drop.low > 0


def test_a_loss_that_rises_is_a_positive_drop_of_inverse_perplexity() -> None:
    before, after = probe(*[1.0, 1.5] * 20, metric="loss"), probe(*[1.2, 1.8] * 20, metric="loss")
    (drop,) = forgetting({"text": before}, {"text": after}).probes
    assert drop.drop.value == pytest.approx(0.25)
    assert drop.drop.low > 0
    assert drop.relative_drop == pytest.approx(1 - math.exp(1.25) / math.exp(1.5))


def test_a_perplexity_that_doubles_loses_half() -> None:
    before, after = probe(4.0, 6.0, metric="perplexity"), probe(8.0, 12.0, metric="perplexity")
    assert forgetting({"text": before}, {"text": after}).probes[0].relative_drop == pytest.approx(0.5)


def test_a_probe_that_improved_drops_below_zero() -> None:
    result = forgetting({"qa": probe(*WORSE)}, {"qa": probe(*RIGHT_THEN_WRONG)})
    assert result.probes[0].drop.value == pytest.approx(-0.2)
    assert result.forgetting is not None
    assert result.forgetting.value == pytest.approx(-1 / 3)


def test_the_interval_of_the_drop_is_paired() -> None:
    scores = np.random.default_rng(0).uniform(size=50)
    drop = forgetting({"qa": probe(*scores)}, {"qa": probe(*(scores - 0.01))}).probes[0].drop
    # Unpaired, 50 scores between 0 and 1 would leave an interval some 0.2 wide.
    assert (drop.low, drop.high) == pytest.approx((0.01, 0.01))


def test_probes_at_chance_are_reported_but_do_not_count() -> None:
    guesses = (1.0, 0.0, 0.0, 0.0) * 25
    before = {"qa": probe(*RIGHT_THEN_WRONG), "guess": probe(*guesses, chance=0.25), "zero": probe(*[0.0] * 9)}
    after = {"qa": probe(*WORSE), "guess": probe(*[0.0] * 100, chance=0.25), "zero": probe(*[1.0] * 9)}
    result = forgetting(before, after)
    assert [drop.left_out is None for drop in result.probes] == [True, False, False]
    assert "not above chance 0.250" in str(result.probes[1].left_out)
    assert result.probes[2].relative_drop is None
    assert result.forgetting is not None
    assert result.forgetting.value == pytest.approx(0.25)


def test_a_baseline_that_beats_chance_by_luck_alone_does_not_count() -> None:
    lucky = {"guess": probe(*(1.0,) * 28, *(0.0,) * 72, chance=0.25)}
    assert forgetting(lucky, lucky).probes[0].left_out == "baseline 0.280 (95% from 0.200) is not above chance 0.250"


def test_probes_are_resampled_each_for_itself() -> None:
    twice = [{str(i): probe(*scores) for i in range(2)} for scores in (RIGHT_THEN_WRONG, WORSE)]
    once = [{"0": side["0"]} for side in twice]
    two, one = (forgetting(*sides).forgetting for sides in (twice, once))
    assert two is not None
    assert one is not None
    assert (two.high - two.low) * math.sqrt(2) == pytest.approx(one.high - one.low, rel=0.1)


def test_the_mean_weighs_every_counted_probe_the_same() -> None:
    before = {"qa": probe(*RIGHT_THEN_WRONG), "sure": probe(*[1.0] * 10)}
    after = {"qa": probe(*WORSE), "sure": probe(*[0.5] * 10)}
    result = forgetting(before, after)
    assert result.forgetting is not None
    assert result.forgetting.value == pytest.approx((0.25 + 0.5) / 2)
    alone = forgetting({"qa": before["qa"]}, {"qa": after["qa"]}).forgetting
    assert alone is not None
    # Constant scores add no noise, so halving the noisy probe's weight halves the width.
    width = result.forgetting.high - result.forgetting.low
    assert width == pytest.approx((alone.high - alone.low) / 2)


def test_accuracy_and_likelihood_are_never_averaged_together() -> None:
    before = {"qa": probe(*RIGHT_THEN_WRONG), "text": probe(*[1.0] * 10, metric="loss")}
    after = {"qa": probe(*WORSE), "text": probe(*[1.0 + math.log(2)] * 10, metric="loss")}
    result = forgetting(before, after)
    assert result.forgetting is not None and result.forgetting_likelihood is not None
    assert result.forgetting.value == pytest.approx(0.25)
    assert result.forgetting_likelihood.value == pytest.approx(0.5)


@pytest.mark.parametrize(("right_after", "share"), [(80, 0.0), (60, 20 / 55), (25, 1.0), (14, 66 / 55)])
def test_forgetting_is_a_share_of_what_was_known_above_chance(right_after: int, share: float) -> None:
    after = probe(*(1.0,) * right_after, *(0.0,) * (100 - right_after), chance=0.25)
    result = forgetting({"qa": probe(*RIGHT_THEN_WRONG, chance=0.25)}, {"qa": after})
    assert result.forgetting is not None
    assert result.forgetting.value == result.probes[0].relative_drop == pytest.approx(share)


def test_without_a_probe_that_counts_nothing_is_claimed() -> None:
    single = {"one": probe(0.5, metric="loss")}
    for result in (forgetting({}, {}), forgetting(single, single)):
        assert result.forgetting is result.forgetting_likelihood is None


def test_the_interval_of_the_mean_drop_has_about_its_nominal_coverage() -> None:
    rng, covered = np.random.default_rng(0), 0
    for _ in range(200):
        hardness = rng.uniform(size=(2, 120))
        before, after = (hardness < 0.8).astype(float), (hardness < 0.6).astype(float)
        sides = [{str(i): probe(*scores) for i, scores in enumerate(side)} for side in (before, after)]
        interval = forgetting(*sides, resamples=400).forgetting
        covered += interval is not None and interval.low <= 0.25 <= interval.high
    assert 0.90 < covered / 200 < 0.985


def test_a_probe_missing_on_one_side_is_named() -> None:
    with pytest.raises(ValueError, match="'qa'"):
        forgetting({"qa": probe(1.0, 1.0)}, {})


def test_a_probe_scored_by_two_metrics_is_refused() -> None:
    with pytest.raises(ValueError, match="accuracy before and by loss after"):
        forgetting({"qa": probe(1.0, 1.0)}, {"qa": probe(1.0, 1.0, metric="loss")})


def test_resamples_at_chance_leave_the_interval_finite() -> None:
    """This probe is just above chance, so a few resamples have no ability above chance that could be lost."""
    before = probe(*(1.0,) * 36, *(0.0,) * 64, chance=0.25)
    after = probe(*(1.0,) * 30, *(0.0,) * 70, chance=0.25)
    result = forgetting({"qa": before}, {"qa": after})
    assert result.probes[0].left_out is None and result.forgetting is not None
    assert math.isfinite(result.forgetting.low) and math.isfinite(result.forgetting.high)
