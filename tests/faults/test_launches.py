"""Second launches, simultaneous launches, and launches after a restart of the machine."""

import json
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.faults.scenes import held, meeting
from tests.faults.stage import Play
from tests.faults.sweeps import FAKE, audit, results, tracked, until

pytestmark = [pytest.mark.slow, pytest.mark.processes]
Stage = Callable[..., Play]
SIX = (*FAKE, "study.trials=6")


def test_of_eight_launches_at_once_in_a_new_folder_one_runs_and_seven_name_it(in_tmp: Path, staged: Stage) -> None:
    plays = [staged(*SIX, scene=partial(meeting, in_tmp, 8)) for _ in range(8)]
    until(lambda: sum(play.is_over for play in plays) >= 7)
    (owner,) = [play for play in plays if not play.is_over]
    refused = [play for play in plays if play is not owner]
    assert [play.code() for play in refused] == [3] * 7
    assert all(f"in use by process {owner.pid} on " in play.text for play in refused), refused[0].text
    assert not any("Traceback" in play.text for play in refused)
    (in_tmp / "go").touch()
    assert owner.code() == 0, owner.text
    audit(in_tmp, 6)
    assert len(tracked(in_tmp, "sweep")) == 1


def test_different_sweeps_at_once_in_a_new_folder_share_one_tracking_store(in_tmp: Path, staged: Stage) -> None:
    (in_tmp / "go").touch()
    plays = [staged(*SIX, f"train.seed={seed}", scene=partial(meeting, in_tmp, 4)) for seed in range(4)]
    assert [play.code() for play in plays] == [0] * 4, [p.text for p in plays if p.code()]
    assert len(tracked(in_tmp)) == 24 and len(tracked(in_tmp, "sweep")) == 4
    assert {run["status"] for run in tracked(in_tmp)} == {"FINISHED"}


def test_after_a_restart_of_the_machine_the_same_command_continues(in_tmp: Path, staged: Stage) -> None:
    """Only files remain: a lock without owner, and a note with the number of a process that is another one now."""
    play = staged(*SIX, scene=partial(held, in_tmp / "go", 5))
    until((in_tmp / "go-waits").exists)
    os.killpg(play.pid, signal.SIGKILL)
    assert play.code() == -signal.SIGKILL
    done = results(in_tmp)
    assert 0 < len(done) < 6
    (folder,) = in_tmp.glob("runs/*")
    assert (folder / ".lock").is_file()
    owner = json.loads((folder / "owner.json").read_text())["owner"]
    (folder / "owner.json").write_text(json.dumps({"owner": owner.replace(str(play.pid), str(os.getpid()))}))
    again = staged(*SIX)
    assert again.code() == 0, again.text
    audit(in_tmp, 6)
    assert results(in_tmp).items() >= done.items()
