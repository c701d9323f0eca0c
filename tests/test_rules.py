"""Each rule stops poor trials by their reports with a reason, and does not stop others."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from lorasweep.study.rules import RULES, RungComparison, RungReport, divergence, make_report, overfitting, rank


def curve(
    values: Sequence[float], eval_losses: Sequence[float], train_losses: Sequence[float]
) -> tuple[RungReport, ...]:
    """Return reports that start at a loss of 4."""
    rows = zip(values, eval_losses, train_losses, strict=True)
    return tuple(
        RungReport(rung=rung, value=value, eval_loss=eval_loss, train_loss=train_loss, first_loss=4.0)
        for rung, (value, eval_loss, train_loss) in enumerate(rows, 1)
    )


def race(
    mine: Sequence[RungReport], others: Sequence[RungReport] = (), *, factor: int = 2, maximize: bool = True
) -> RungComparison:
    return RungComparison(own=tuple(mine), peers=(mine[-1], *others), maximize=maximize, reduction_factor=factor)


BETTER = curve([0.9], [0.5], [0.5])
SOUND = curve([0.2, 0.4, 0.5], [2.0, 1.5, 1.2], [2.5, 1.8, 1.0])


def test_a_training_loss_above_where_it_began_is_divergence() -> None:
    assert (
        divergence(race(curve([0.1], [6.0], [6.0]))) == "training loss rose to 6 after a minimum of 4; it started at 4"
    )


def test_a_training_loss_that_gave_its_gains_back_is_divergence() -> None:
    assert "after a minimum of 1" in divergence(race(curve([0.3, 0.1], [1.2, 3.0], [1.0, 3.1])))


@pytest.mark.parametrize("train_losses", [(4.2,), (3.9, 4.0), (0.02, 0.05), (1.0, 2.3), (2.0, 1.5)])
def test_noise_is_no_divergence(train_losses: tuple[float, ...]) -> None:
    same = [1.0] * len(train_losses)
    assert divergence(race(curve(same, same, train_losses), BETTER)) == ""


def test_the_best_of_many_that_diverge_goes_on() -> None:
    diverged = curve([0.2], [6.0], [6.0])
    assert divergence(race(diverged, curve([0.1], [7.0], [7.0]))) == ""
    assert divergence(race(diverged, BETTER)) != ""


def test_a_lucky_objective_does_not_hide_divergence() -> None:
    assert divergence(race(curve([0.9], [6.0], [6.0]), curve([0.1], [3.0], [3.0]))) != ""


def test_a_validation_loss_that_rises_as_training_loss_falls_is_overfitting() -> None:
    mine = curve([0.3, 0.5, 0.5, 0.5], [1.5, 1.0, 1.1, 1.3], [2.0, 1.0, 0.5, 0.2])
    assert overfitting(race(mine, BETTER)) == (
        "validation loss rose from 1 at rung 2 to 1.3, while training loss fell from 1 to 0.2"
    )


@pytest.mark.parametrize(
    "mine",
    [
        SOUND,
        curve([0.3, 0.5, 0.5], [1.5, 1.0, 1.3], [2.0, 1.0, 0.5]),  # a single rise is no trend
        curve([0.3, 0.5, 0.55, 0.6], [1.5, 1.0, 1.1, 1.3], [2.0, 1.0, 0.5, 0.2]),  # the objective improves
        curve([0.3, 0.5, 0.5, 0.5], [1.5, 1.0, 1.01, 1.02], [2.0, 1.0, 0.5, 0.2]),  # noise
        curve([0.3, 0.5, 0.5, 0.5], [1.5, 1.0, 1.4, 1.2], [2.0, 1.0, 0.5, 0.2]),  # it falls again
        curve([0.3, 0.5, 0.5, 0.5], [1.5, 1.0, 1.1, 1.3], [2.0, 1.0, 1.1, 1.2]),  # the training loss rises too
    ],
)
def test_other_curves_are_no_overfitting(mine: tuple[RungReport, ...]) -> None:
    assert overfitting(race(mine, BETTER)) == ""


def test_the_best_trial_may_overfit() -> None:
    mine = curve([0.3, 0.5, 0.5, 0.5], [1.5, 1.0, 1.1, 1.3], [2.0, 1.0, 0.5, 0.2])
    assert overfitting(race(mine, curve([0.4], [1.0], [1.0]))) == ""


def test_the_worse_half_goes() -> None:
    field = [curve([0.1 * i], [2 - 0.1 * i], [1.0])[0] for i in range(6)]
    gone = [i for i, mine in enumerate(field) if rank(race([mine], [p for p in field if p is not mine]))]
    assert gone == [0, 1, 2]
    third = [i for i, m in enumerate(field) if rank(race([m], [p for p in field if p is not m], factor=3))]
    assert third == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("num", "factor", "num_kept"), [(5, 2, 3), (7, 2, 4), (9, 2, 5), (5, 3, 2), (7, 3, 3), (9, 3, 3)]
)
def test_of_an_odd_number_the_larger_part_goes_on(num: int, factor: int, num_kept: int) -> None:
    field = [curve([0.1 * i], [2 - 0.1 * i], [1.0])[0] for i in range(num)]
    kept = [m for m in field if not rank(race([m], [p for p in field if p is not m], factor=factor))]
    assert kept == field[-num_kept:]


def test_less_is_better_where_the_objective_is_minimized() -> None:
    field = [curve([0.1 * i], [0.1 * i], [1.0])[0] for i in range(6)]
    others = field[1:]
    assert rank(race(field[:1], others, maximize=False)) == ""
    assert rank(race(field[5:], field[:5], maximize=False)) != ""


def test_a_good_validation_loss_saves_a_trial_whose_objective_lags() -> None:
    field = [curve([0.5 + 0.1 * i], [2.0], [1.0])[0] for i in range(5)]
    assert rank(race(curve([0.0], [2.1], [1.0]), field)) != ""
    assert rank(race(curve([0.0], [1.0], [1.0]), field)) == ""


def test_equal_objectives_are_ordered_by_validation_loss() -> None:
    field = [curve([0.0], [loss], [1.0])[0] for loss in (1.0, 1.1, 1.2, 1.3)]
    assert rank(race(curve([0.0], [1.4], [1.0]), field)) != ""
    assert rank(race(curve([0.0], [0.9], [1.0]), field)) == ""


def test_no_trial_is_stopped_by_rank_among_few() -> None:
    field = [curve([0.9], [0.5], [0.5])[0]] * 3
    assert rank(race(curve([0.0], [5.0], [1.0]), field)) == ""
    assert rank(race(curve([0.0], [5.0], [1.0]), [*field, field[0]])) != ""


def test_no_rule_minds_a_sound_trial_that_is_alone() -> None:
    assert [rule(race(SOUND)) for rule in RULES.values()] == ["", "", ""]


def test_a_validation_loss_that_is_no_number_counts_as_the_worst() -> None:
    metrics = {"eval/loss": float("nan"), "train/loss": 1.0, "train/first_loss": 4.0}
    assert make_report(2, 0.5, metrics).eval_loss == float("inf")
    assert make_report(2, 0.5, metrics | {"eval/bits_per_byte": float("nan")}).eval_bits == float("inf")
    assert make_report(2, 0.5, metrics | {"eval/bits_per_byte": 1.5}).eval_bits == 1.5


def test_losses_of_different_tokenizers_are_compared_per_byte() -> None:
    """Long tokens make a high loss per token; by the objective alone the trial would be stopped."""
    long = RungReport(rung=1, value=0.1, eval_loss=3.0, train_loss=1.0, first_loss=4.0, eval_bits=1.0)
    short = [replace(long, value=0.2 + n / 100, eval_loss=2.0, eval_bits=1.5) for n in range(5)]
    assert rank(race([long], short)) == ""
    assert rank(race([replace(long, eval_bits=None)], short)) != ""
