"""The steps of rungs."""

import pytest

from lorasweep.core.rungs import rung_at, rung_steps, warmup_share
from tests.settings import trained


@pytest.mark.parametrize(
    ("num_steps", "num_rungs", "factor", "steps"),
    [
        (120, 3, 1.0, (40, 80, 120)),
        (120, 5, 2.0, (8, 15, 30, 60, 120)),
        (90, 3, 3.0, (10, 30, 90)),
        (3, 5, 2.0, (1, 1, 1, 2, 3)),
        (7, 1, 2.0, (7,)),
    ],
)
def test_rungs_are_even_or_each_lies_further_by_a_factor(
    num_steps: int, num_rungs: int, factor: float, steps: tuple[int, ...]
) -> None:
    assert rung_steps(num_steps, num_rungs, factor) == steps


@pytest.mark.parametrize(("num_steps", "steps"), [(120, (45, 60, 120)), (8, (3, 4, 8)), (30, (11, 15, 30))])
def test_no_rung_lies_in_the_longest_warm_up_of_the_study(num_steps: int, steps: tuple[int, ...]) -> None:
    """A third of the steps is warm-up; the rungs are at 1/16 and 1/4 of the remaining steps."""
    assert rung_steps(num_steps, 3, 4.0, start=1 / 3) == steps


def test_no_rounding_puts_a_rung_into_the_warm_up() -> None:
    for num_steps in range(1, 200):
        for start in (0.05, 0.1, 1 / 3, 0.5, 0.9):
            assert min(rung_steps(num_steps, 5, 4.0, start=start)) >= start * num_steps - 1e-9


def test_a_warm_up_as_long_as_training_leaves_no_rung_but_the_end() -> None:
    assert rung_steps(20, 3, 4.0, start=1.0) == (20, 20, 20)


def test_a_step_that_several_rungs_share_is_the_last_of_them() -> None:
    """A short trial is then compared with trials at the same share of their steps."""
    steps = rung_steps(3, 5, 2.0)
    assert [rung_at(steps, step) for step in (0, 1, 2, 3)] == [0, 3, 4, 5]


@pytest.mark.parametrize(
    ("settings", "share"),
    [
        ({"warmup_steps": 0.1}, 0.1),
        ({"warmup_steps": 30, "max_steps": 120}, 0.25),
        ({"warmup_steps": 5, "num_train_epochs": 2}, 0.1),  # 100 rows in batches of 4
        ({"warmup_steps": 300, "max_steps": 120}, 1.0),
        ({"warmup_steps": 0.5, "lr_scheduler_type": "constant"}, 0.0),
    ],
)
def test_warm_up_is_a_share_of_a_trials_own_steps(settings: dict[str, float], share: float) -> None:
    assert warmup_share(trained(**settings), num_train=100) == pytest.approx(share)
