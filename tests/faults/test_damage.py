"""Files that are cut off or overwritten: told, or made again; never a traceback, never another trial lost."""

import shutil
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from lorasweep.cli import main
from lorasweep.plan import Plan
from tests.faults.scenes import held
from tests.faults.stage import Play, perform
from tests.faults.sweeps import FAKE, Said, driver_of, results, until
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
         "config.yaml", "study.db")  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_of_a_run_cost_at_most_the_trial_that_they_were(
    damage: str, finished: Path, in_tmp: Path, staged: Stage
) -> None:
    """All kinds of file at once: none may hide behind another."""
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


def test_damaged_caches_are_made_again_and_change_no_number(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokenised rows, the base's scores on probes, and what measured memory has taught."""
    monkeypatch.setenv("LORASWEEP_CACHE", str(in_tmp / "cache"))
    # What this process has held before may hide what the sweep takes.
    monkeypatch.setattr("lorasweep.trials.Meter.peak_bytes", lambda _: 200 << 20)
    assert main([*PROBED, "tracking=none"]) == 0
    expected = results(in_tmp)[0]["metrics"]
    files = [f for f in (in_tmp / "cache").rglob("*") if f.is_file()]
    assert "forgetting" in expected and {f.parent.name for f in files} == {
        "tokens",
        "baselines",
        "memory",
        "paths",
        "linears",
    }
    for damage in ("cut off", "an empty object", "a list", "another object", "deep"):
        for file in files:
            data = DAMAGES[damage](file.read_bytes())
            file.write_bytes(zlib.compress(data) if file.parent.name == "tokens" and damage != "cut off" else data)
        assert main([*PROBED, "tracking=none", f"output_dir={damage}/runs"]) == 0, damage
        assert results(in_tmp / damage)[0]["metrics"] == expected, damage


def test_a_study_that_cannot_be_read_is_filled_again(plan: Plan, tmp_path: Path) -> None:
    driver = driver_of(plan, tmp_path, Said())
    driver.run()
    driver.ledger.close()
    for damage in (b"", b"this is no database" * 99, (tmp_path / "study.db").read_bytes()[:9000]):
        (tmp_path / "study.db").write_bytes(damage)
        again = driver_of(plan, tmp_path, Said())
        again.run()
        again.ledger.close()
        assert again.study.states() == {"COMPLETE": 6} and len(again.ledger.results) == 6
