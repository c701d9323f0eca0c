"""After kills of real workers and drivers, the same command has the same results."""

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lorasweep.cli import main
from tests.faults.stage import Play
from tests.faults.sweeps import (
    LONG,
    audit,
    checkpoints,
    children,
    is_alive,
    number_of,
    objectives,
    results,
    until,
    workers,
)
from tests.test_run import launch

pytestmark = [pytest.mark.slow, pytest.mark.processes]
Stage = Callable[..., Play]
SEEDS = range(number_of("LORASWEEP_KILLS", 1))


def test_every_killed_child_of_a_driver_is_replaced_or_not_needed(in_tmp: Path, undisturbed: dict[int, Any]) -> None:
    """Kill the worker, the reaper and the resource tracker of multiprocessing, but not the driver."""
    process = launch(in_tmp, *LONG, "executor=local", "tracking=none")
    try:
        until(lambda: checkpoints(in_tmp) or process.poll() is not None)
        below = [*children(process.pid, "reaper.py"), *children(process.pid, "resource_tracker"), *workers(process.pid)]
        assert len(below) == 3
        for child in below:
            child.kill()
        output, _ = process.communicate(timeout=120)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0, output
    assert "trials continue in a new one" in output
    assert objectives(in_tmp) == undisturbed and not checkpoints(in_tmp)
    attempts = [json.loads(f.read_text())["attempt"] for f in in_tmp.glob("runs/*/trials/*/attempt.json")]
    assert attempts == [1, 1]


@pytest.mark.parametrize("seed", SEEDS)
def test_random_kills_lose_nothing_and_repeat_nothing(
    in_tmp: Path, staged: Stage, undisturbed: dict[int, Any], seed: int
) -> None:
    """Kill the driver or its worker at random moments; the same command has the results of an undisturbed sweep."""
    draw = random.Random(seed)
    killed: list[str] = []
    for _ in range(2):
        play = staged(*LONG, "executor=local", is_real=True)
        killed += killed_at_random(play, in_tmp, draw)
        done = results(in_tmp)
    assert main([*LONG]) == 0
    print(f"seed {seed}: killed {', '.join(killed)}; {len(done)} trials were done before the last launch")
    assert objectives(in_tmp) == undisturbed
    assert results(in_tmp).items() >= done.items()
    audit(in_tmp, 2)


def killed_at_random(play: Play, folder: Path, draw: random.Random) -> list[str]:
    """Kill a launch's driver, or its worker and a little later its driver; return which of them were killed."""
    until(lambda: workers(play.pid) or play.is_over)
    if draw.random() < 0.5:  # while it trains, or at any time
        until(lambda: checkpoints(folder) or play.is_over)
        time.sleep(draw.uniform(0, 1))
    else:
        time.sleep(draw.uniform(0, 5))
    killed = []
    family = [w.pid for w in workers(play.pid)]
    if draw.random() < 0.5:
        for pid in filter(is_alive, family):
            os.kill(pid, signal.SIGKILL)
            killed.append("worker")
        time.sleep(draw.uniform(0, 2))
        family += [w.pid for w in workers(play.pid)]
    if not play.is_over:
        play.process.kill()
        killed.append("driver")
    play.code()
    until(lambda: not any(map(is_alive, family)), 10)
    return killed
