"""The simulated sweeps are what they claim to be: their truth is known."""

import numpy as np
import pytest

from benchmarks.statistics import SEED_SD, World, coverage, optimism, ties


def test_a_simulated_worlds_truth_is_what_its_answers_have_on_average() -> None:
    world, rng = World(num_trials=2, num_seeds=400, seed_sd=SEED_SD), np.random.default_rng(0)
    shifts = np.array([0.0, 0.5])
    means = np.mean([world.answers(shifts, rng).mean(axis=(1, 2)) for _ in range(30)], axis=0)
    assert means == pytest.approx(world.truth(shifts), abs=0.02)


def test_every_table_has_its_rows() -> None:
    assert (len(ties(5)), len(coverage(5)), len(optimism(2))) == (8, 5, 8)


def test_picking_the_best_before_testing_it_breaks_its_promise_and_all_pairs_do_not() -> None:
    rates = {(row.what, row.num_trials): row.rate for row in ties(150)}
    assert rates["best against each (before), equal adapters", 18] > 0.12
    assert rates["all pairs, equal adapters", 18] < 0.09
