"""If a launch is killed while it creates its databases, the next launch creates them."""

import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.faults.scenes import counted_statements
from tests.faults.stage import Play
from tests.faults.sweeps import FAKE, audit, number_of

pytestmark = [pytest.mark.slow, pytest.mark.processes]
ONE = (*FAKE, "study.trials=1")
KILLS = number_of("LORASWEEP_FIRST_KILLS", 4)


def test_a_first_launch_killed_at_any_statement_leaves_nothing_that_cannot_be_opened(
    in_tmp: Path, staged: Callable[..., Play]
) -> None:
    """Launches follow each other in one folder: each has to open the databases of earlier ones."""
    note = in_tmp / "statements"
    whole = staged(
        *ONE, "output_dir=whole/runs", "tracking.uri=sqlite:///whole.db", scene=partial(counted_statements, note)
    )
    assert whole.code() == 0, whole.text
    num_statements = int(note.read_text())
    assert num_statements > 100  # of both migrations, and of a trial
    for kill in range(KILLS):
        last = 1 + kill * (num_statements - 1) // KILLS
        play = staged(*ONE, scene=partial(counted_statements, note, last))
        assert play.code() == -signal.SIGKILL, f"before statement {last}:\n{play.text}"
    play = staged(*ONE)
    assert play.code() == 0, play.text
    audit(in_tmp, 1)
