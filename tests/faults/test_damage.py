"""Truncated or overwritten files are reported or replaced, without a traceback or the loss of other trials."""

import shutil
import subprocess
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from lorasweep.cli import main
from lorasweep.planning.plan import Plan
from tests.faults.scenes import failing_with, held
from tests.faults.stage import Play, perform
from tests.faults.sweeps import FAKE, Notes, driver_of, results, tracked, until
from tests.settings import states
from tests.test_run import QUICK, board

Stage = Callable[..., Play]
PROBED = tuple(a for a in QUICK if a != "probes=none")
THREE = (*FAKE, "study.trials=3")
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "cut off": lambda data: data[: len(data) // 2],
    "zeros": lambda data: bytes(len(data)),
    "not text": lambda _: b"\xff\xfe\x00\x80" * 99,
    "a list": lambda _: b"[1]",
    "an empty object": lambda _: b"{}",
    "nothing": lambda _: b"null",
    "another object": lambda _: b'{"trial": 0, "attempt": "x", "factor": Infinity, "count": Infinity}',
    "deep": lambda _: b"[" * 100_000,
}


@pytest.fixture(scope="module")
def finished(_stage: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A sweep that was killed at its last trial, to be copied and damaged."""
    folder = tmp_path_factory.mktemp("finished") / "my work"
    folder.mkdir()
    output = folder.parent / "output"
    play = perform(folder, output, THREE, partial(held, folder / "go", 4), is_real=False)
    until(lambda: (folder / "go-waits").exists() and len(list(folder.glob("runs/*/trials/*/exported"))) == 2)
    play.process.kill()
    play.code()
    assert len(results(folder)) == 2
    (run,) = folder.glob("runs/*")
    (run / "trials" / "0002").mkdir(exist_ok=True)
    (run / "trials" / "0002" / "attempt.json").write_text('{"attempt": 1, "reason": "x"}')
    yield folder


FILES = ("trials/0000/result.json", "trials/0000/exported", "trials/0002/attempt.json", "owner.json", "inputs.json",
         "config.yaml", "study.db", "run.json")  # fmt: skip


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_of_a_run_costs_at_most_its_own_trial(
    damage: str, finished: Path, in_tmp: Path, staged: Stage
) -> None:
    """All kinds of files are damaged at once, so that none hides another."""
    shutil.copytree(finished, in_tmp, dirs_exist_ok=True)
    store = f"tracking.uri=sqlite:///{in_tmp}/mlflow.db"
    (run,) = in_tmp.glob("runs/*")
    kept = (run / "trials" / "0001" / "result.json").read_bytes()
    for name in FILES:
        file = run / name
        file.write_bytes(DAMAGES[damage](file.read_bytes()))
    play = staged(*THREE, store)
    assert play.code() == 0, play.text
    assert "Traceback" not in play.text
    assert (run / "trials" / "0001" / "result.json").read_bytes() == kept
    assert "0000/result.json cannot be read" in play.text
    found = [t for t in board(in_tmp)["trials"] if t["state"] == "complete"]
    assert len(found) == 3 and len(board(in_tmp)["trials"]) == 3


FOLDERS = ("trials/0000/result.json", "trials/0000/exported", "trials/0002/attempt.json", "config.yaml",
           "leaderboard.html", "study.db")  # fmt: skip


@pytest.mark.slow
@pytest.mark.processes
def test_a_folder_in_the_place_of_a_file_is_set_aside_once(finished: Path, in_tmp: Path, staged: Stage) -> None:
    shutil.copytree(finished, in_tmp, dirs_exist_ok=True)
    store = f"tracking.uri=sqlite:///{in_tmp}/mlflow.db"
    (run,) = in_tmp.glob("runs/*")
    for name in FOLDERS:
        (run / name).unlink(missing_ok=True)
        (run / name).mkdir()
    play = staged(*THREE, store)
    assert play.code() == 0 and "Traceback" not in play.text, play.text
    assert "0000/result.json cannot be read" in play.text and list(run.glob("trials/0000/result.json.broken-*"))
    again = staged(*THREE, store)
    assert again.code() == 0 and "cannot be read" not in again.text, again.text
    assert len([t for t in board(in_tmp)["trials"] if t["state"] == "complete"]) == 3


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize("where", ["output_dir", "LORASWEEP_CACHE", "tracking.uri"])
def test_a_folder_that_is_read_only_is_named_without_a_traceback(where: str, in_tmp: Path, staged: Stage) -> None:
    locked = in_tmp / "locked"
    locked.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", str(locked)], capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        setting = {"output_dir": f"output_dir={locked}/runs", "tracking.uri": f"tracking.uri=sqlite:///{locked}/m.db"}
        cache = {"LORASWEEP_CACHE": f"{locked}/cache"} if where == "LORASWEEP_CACHE" else {}
        arguments = [setting[where]] if where in setting else []
        play = staged(*THREE, *arguments, scene=partial(failing_with, "", cache))
        assert play.code() == 78 and "Traceback" not in play.text, play.text
        assert str(locked) in play.text and where in play.text
    finally:
        subprocess.run(["umount", "--lazy", str(locked)], check=True)


@pytest.mark.slow
@pytest.mark.processes
def test_a_run_folder_that_was_moved_goes_on_in_the_same_tracked_runs(in_tmp: Path, staged: Stage) -> None:
    store = f"tracking.uri=sqlite:///{in_tmp}/mlflow.db"
    assert staged(*THREE[:-1], "study.trials=2", store).code() == 0
    (in_tmp / "runs").rename(in_tmp / "elsewhere")
    play = staged(*THREE, store, "output_dir=elsewhere")
    assert play.code() == 0, play.text
    assert len(tracked(in_tmp)) == 3 and len(tracked(in_tmp, "sweep")) == 1


@pytest.mark.slow
def test_damaged_caches_are_made_again_and_change_no_number(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches: tokenised rows, the base's scores on probes, and corrections of memory predictions."""
    monkeypatch.setenv("LORASWEEP_CACHE", str(in_tmp / "cache"))
    # Earlier memory of this process may hide the memory of the sweep.
    monkeypatch.setattr("lorasweep.worker.live_trials.Meter.peak_bytes", lambda _: 200 << 20)
    assert main([*PROBED, "tracking=none"]) == 0
    expected = results(in_tmp)[0]["metrics"]
    files = [f for f in (in_tmp / "cache").rglob("*") if f.is_file()]
    assert "forgetting" in expected and {f.parent.name for f in files} >= {"tokens", "baselines", "memory"}
    for damage in ("cut off", "an empty object", "a list", "another object", "deep"):
        for file in files:
            data = DAMAGES[damage](file.read_bytes())
            file.write_bytes(zlib.compress(data) if file.parent.name == "tokens" and damage != "cut off" else data)
        assert main([*PROBED, "tracking=none", f"output_dir={damage}/runs"]) == 0, damage
        assert results(in_tmp / damage)[0]["metrics"] == expected, damage


def test_a_study_that_cannot_be_read_is_filled_again(plan: Plan, tmp_path: Path) -> None:
    driver = driver_of(plan, tmp_path, Notes())
    driver.run()
    driver.ledger.close()
    driver.study.close()
    for damage in (b"", b"this is no database" * 99, (tmp_path / "study.db").read_bytes()[:9000]):
        (tmp_path / "study.db").write_bytes(damage)
        again = driver_of(plan, tmp_path, Notes())
        again.run()
        again.ledger.close()
        assert states(again.study) == {"COMPLETE": 6} and len(again.ledger.results) == 6
        again.study.close()
