"""Launches for fault tests, which are always ended after the test."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lorasweep.cli import main
from lorasweep.planning.make import make_plan
from lorasweep.planning.plan import Plan
from tests.faults.stage import Play, Scene, open_stage, perform
from tests.faults.sweeps import LONG, REPO, objectives
from tests.settings import composed


@pytest.fixture(scope="session")
def _stage() -> None:
    open_stage(REPO)


@pytest.fixture
def staged(_stage: None, in_tmp: Path) -> Iterator[Callable[..., Play]]:
    """Launch sweeps here, over fake workers or real ones."""
    made: list[Play] = []
    numbers = itertools.count()

    def one(*arguments: str, scene: Scene | None = None, is_real: bool = False) -> Play:
        output = in_tmp.parent / f"output-{next(numbers)}"
        made.append(perform(in_tmp, output, arguments, scene, is_real=is_real))
        return made[-1]

    yield one
    for play in made:
        play.process.kill()
        play.process.join()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Any]:
    """The results of the long sweep without faults."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert main([*LONG, "tracking=none", f"output_dir={folder}/runs"]) == 0
    return objectives(folder)


@pytest.fixture(scope="session")
def plan() -> Plan:
    """Six trials of a learning rate."""
    return make_plan(
        composed("train.learning_rate=tag(log,interval(1e-5,1e-1))", "study.trials=6", "probes=none", "data.test=null")
    )
