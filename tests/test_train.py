"""When trials report."""

import pytest

from lorasweep.learner import rung_steps


@pytest.mark.parametrize(
    ("num_steps", "num_rungs", "factor", "steps"),
    [
        (120, 3, 1.0, (40, 80, 120)),
        (120, 5, 2.0, (8, 15, 30, 60, 120)),
        (90, 3, 3.0, (10, 30, 90)),
        (3, 5, 2.0, (1, 2, 3)),
        (7, 1, 2.0, (7,)),
    ],
)
def test_rungs_are_even_or_each_lies_further_by_a_factor(
    num_steps: int, num_rungs: int, factor: float, steps: tuple[int, ...]
) -> None:
    assert rung_steps(num_steps, num_rungs, factor) == steps
