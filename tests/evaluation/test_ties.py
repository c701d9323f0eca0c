"""Ties: in simulated sweeps, the error rate over all pairs is at most the promised one."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from evaluation.ties import tied_with_best


def test_a_clearly_worse_trial_is_not_tied_and_a_slightly_worse_one_is() -> None:
    hardness, noise = np.random.default_rng(0).normal(size=(2, 200))
    trials = {
        "best": hardness,
        "near": hardness + 0.3 * (noise - noise.mean()) - 0.01,
        "far": hardness - 0.2 + 0.3 * noise,
    }
    scores = {key: [float(score) for score in values] for key, values in trials.items()}
    assert tied_with_best(scores, maximize=True) == {"best", "near"}
    losses = {key: [-score for score in values] for key, values in scores.items()}
    assert tied_with_best(losses, maximize=False) == {"best", "near"}


def test_trials_with_equal_scores_are_all_tied() -> None:
    assert tied_with_best({1: [1.0, 0.0] * 20, 2: [1.0, 0.0] * 20}, maximize=True) == {1, 2}
    assert tied_with_best({}, maximize=True) == set()


@pytest.mark.parametrize(("num", "expected"), [(5, {"all", "none"}), (10, {"all"})])
def test_five_examples_cannot_tell_trials_apart_and_ten_can(num: int, expected: set[str]) -> None:
    assert tied_with_best({"all": [1.0] * num, "none": [0.0] * num}, maximize=True) == expected


def equal_trials(
    num_trials: int, seeds: int, rng: np.random.Generator, seed_effect: float = 0.0
) -> list[list[list[float]]]:
    """Return answers of trials with equal expectation to 160 easy and hard examples, with noise of seed and answer."""
    ease = 2 * rng.normal(size=160)
    lucky = seed_effect * rng.normal(size=(num_trials, seeds, 1))
    answers: list[list[list[float]]] = (
        (1.2 + ease + lucky + rng.normal(size=(num_trials, seeds, 160)) > 0).astype(float).tolist()
    )
    return answers


def share_with_a_difference(num_trials: int, seeds: int, sweeps: int, seed_effect: float = 0.0) -> float:
    """Simulate sweeps of equal trials and return the share in which a trial is called different."""
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(sweeps):
        trials = dict(enumerate(equal_trials(num_trials, seeds, rng, seed_effect)))
        found += len(tied_with_best(trials, maximize=True, flips=400)) < num_trials
    return found / sweeps


@pytest.mark.parametrize("num_trials", [6, 18])
def test_the_best_of_equal_trials_turns_one_away_in_no_more_sweeps_than_promised(num_trials: int) -> None:
    # Testing only against the chosen best called one different in 11 and 24 %.
    assert share_with_a_difference(num_trials, 1, 200) <= 0.08  # 5 % and two standard errors


def test_seeds_as_large_as_examples_turn_no_setting_away() -> None:
    assert share_with_a_difference(6, 3, 60, seed_effect=0.2) <= 0.08


def test_with_one_seed_each_only_adapters_are_compared_not_other_seeds() -> None:
    assert share_with_a_difference(6, 1, 60, seed_effect=0.2) > 0.2


def test_a_hopeless_trial_hides_no_difference_between_good_ones() -> None:
    rng = np.random.default_rng(1)
    best = (rng.random(160) < 0.8).astype(float)
    worse = np.where(rng.random(160) < 0.2, 0.0, best)
    trials = {"best": best.tolist(), "worse": worse.tolist(), **{f"none {n}": [0.0] * 160 for n in range(8)}}
    assert tied_with_best(trials, maximize=True) == {"best"}


def test_memory_stays_bounded_for_many_trials_and_examples() -> None:
    answers = np.random.default_rng(0).integers(2, size=(400, 2000)).astype(float)
    tracemalloc.start()
    tied_with_best(dict(enumerate(answers.tolist())), maximize=True, flips=200)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 150e6


def test_a_difference_beyond_examples_and_seeds_is_found() -> None:
    good = equal_trials(1, 4, np.random.default_rng(0), 0.2)[0]
    bad = [[score if place % 3 else 0.0 for place, score in enumerate(row)] for row in good]
    assert tied_with_best({"good": good, "bad": bad}, maximize=True) == {"good"}


def test_trials_scored_on_other_examples_are_refused() -> None:
    with pytest.raises(ValueError, match="same examples"):
        tied_with_best({1: [1.0], 2: [1.0, 0.0]}, maximize=True)


def test_too_few_flips_cannot_show_a_difference() -> None:
    """The observed signs are one of the flips: of 11, even the most extreme has a share of 9 %."""
    trials = {"all": [1.0] * 40, "none": [0.0] * 40}
    assert tied_with_best(trials, maximize=True, flips=10) == {"all", "none"}
    assert tied_with_best(trials, maximize=True, flips=40) == {"all"}


def test_pairs_that_differ_leave_the_others_a_fairer_comparison() -> None:
    """Among the 190 pairs of 20 unequal trials a gap of 2.8 standard errors is common; alone it is not."""
    rng = np.random.default_rng(0)
    far = {n: (rng.normal(size=200) - n / 2).tolist() for n in range(2, 20)}
    best, noise = rng.normal(size=(2, 200))
    gap = 2.8 / np.sqrt(200) + (noise - noise.mean()) / noise.std()
    trials = {"best": best.tolist(), "worse": (best - gap).tolist()}
    assert tied_with_best({**trials, **far}, maximize=True, best="best") == {"best"}


def test_a_restless_trial_hides_no_difference_between_steady_ones() -> None:
    best, noise, wild = np.random.default_rng(0).normal(size=(3, 200))
    trials = {
        "best": best,
        "worse": best - 0.05 + 0.1 * (noise - noise.mean()),
        "wild": best + 5 * (wild - wild.mean()),
    }
    scores = {key: values.tolist() for key, values in trials.items()}
    assert tied_with_best(scores, maximize=True, best="best") == {"best", "wild"}


def test_two_seeds_each_leave_their_own_noise_uncertain() -> None:
    """Beyond 3.5 standard errors lie 0.05 % of a normal distribution, but 7 % of Student's t with two degrees."""
    seeds = {key: [[middle + x] * 1000 for x in (-1.0, 1.0)] for key, middle in (("a", 3.5 * 2**0.5), ("b", 0.0))}
    assert tied_with_best(seeds, maximize=True) == {"a", "b"}
    assert tied_with_best({**seeds, "b": [[-9.0] * 1000, [-7.0] * 1000]}, maximize=True) == {"a"}


def test_trials_can_be_tied_with_another_than_the_best() -> None:
    trials = {"all": [1.0] * 20, "none": [0.0] * 20, "nothing": [0.0] * 20}
    assert tied_with_best(trials, maximize=True, best="nothing") == {"none", "nothing"}
