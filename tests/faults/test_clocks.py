"""With a wall clock that jumps, deadlines, durations and order stay correct."""

import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from lorasweep.cli import main
from tests.faults.scenes import jumping_clock
from tests.faults.stage import Play
from tests.faults.sweeps import FAKE, LONG, audit, objectives, results, tracked

pytestmark = [pytest.mark.slow, pytest.mark.processes]
HOUR_S = 3600.0
JUMPS_S = (0.0, -5 * HOUR_S, 3 * HOUR_S, -24 * HOUR_S, 1000 * HOUR_S)


def test_trials_under_a_jumping_clock_come_to_the_same_in_the_same_order(
    in_tmp: Path, staged: Callable[..., Play]
) -> None:
    grid = (*FAKE, "train.learning_rate=1e-4,2e-4,3e-4,4e-4", "study.sampler=grid", "study.timeout_min=10",
            "study.hang_min=1")  # fmt: skip
    steady = staged(*grid, "output_dir=steady/runs", "tracking=none")
    assert steady.code() == 0, steady.text
    play = staged(*grid, scene=partial(jumping_clock, JUMPS_S))
    assert play.code() == 0, play.text
    assert "silent" not in play.text and "-1" not in play.text.split("full leaderboard")[0]
    audit(in_tmp, 4)
    assert objectives(in_tmp) == objectives(in_tmp / "steady")


def test_no_duration_is_negative_when_the_clock_goes_back_while_trials_train(
    in_tmp: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[int, object]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("time.time", time.time)  # so that it is restored
        jumping_clock(JUMPS_S)
        assert main([*LONG, "study.timeout_min=30"]) == 0
    assert objectives(in_tmp) == undisturbed
    for result in results(in_tmp).values():
        cost = result["cost"]
        for name in ("wall_s", "train_s", "its_per_s", "tokens_per_s"):
            assert 0 < cost[name] < math.inf and cost["wall_s"] < 120
        steps = [point["step"] for point in result["history"]]
        assert steps == sorted(steps)
    assert len(tracked(in_tmp)) == 2
