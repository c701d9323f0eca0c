"""On a full disk, real or simulated, the sweep waits for free space and loses nothing."""

import errno
import math
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lorasweep.driver import ledger
from lorasweep.driver.disk_guard import DiskGuard
from lorasweep.planning.plan import Plan
from tests.faults.scenes import held
from tests.faults.stage import Play
from tests.faults.sweeps import FAKE, Notes, audit, driver_of, results, until
from tests.settings import states

Stage = Callable[..., Play]
TEN = (*FAKE, "study.trials=10")
MIB = 1 << 20


@pytest.fixture
def small_disk(in_tmp: Path) -> Iterator[Path]:
    """A separate file system with space for little more than a sweep."""
    disk = in_tmp / "disk"
    disk.mkdir()
    if shutil.which("mount") is None:
        pytest.skip("there is no mount command here")
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=80m", "none", str(disk)], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"file systems cannot be mounted here: {made.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(disk: Path) -> Path:
    """Fill the file system."""
    file = disk / "filler"
    with file.open("wb", buffering=0) as filler, pytest.raises(OSError, match="No space left"):
        while True:
            # The file system may write part of a block before it refuses the next.
            assert filler.write(b"x" * 4096)
    return file


def is_settled(disk: Path, num_results: int) -> bool:
    """Return whether no upload is pending: the tracking thread still writes while the driver waits.

    The starts of live trials leave no mark, so the store must also have been left alone for a while.
    """
    written_s = max((file.stat().st_mtime for file in disk.glob("mlflow.db")), default=math.inf)
    return time.time() - written_s > 1.5 and len(list(disk.glob("runs/*/trials/*/exported"))) == num_results


@pytest.mark.slow
@pytest.mark.processes
def test_a_full_disk_pauses_the_sweep_and_free_space_lets_it_continue(
    in_tmp: Path, small_disk: Path, staged: Stage
) -> None:
    """Results, study and tracking store are on this disk."""
    where = (f"output_dir={small_disk}/runs", f"tracking.uri=sqlite:///{small_disk}/mlflow.db")
    play = staged(*TEN, *where, scene=partial(held, in_tmp / "go", 6))
    until((in_tmp / "go-waits").exists)
    until(lambda: (done := results(small_disk)) and is_settled(small_disk, len(done)))
    done = results(small_disk)
    assert 0 < len(done) < 10
    filler = fill(small_disk)
    (in_tmp / "go").touch()
    until(lambda: "is full" in play.text or play.is_over)
    time.sleep(3)  # long enough for another failed attempt
    assert not play.is_over and results(small_disk) == done, play.text
    filler.unlink()
    assert play.code() == 0, play.text
    assert (
        play.text.count("paused until there is space") == 1
        and play.text.count("there is free space on the disk again") == 1
    )
    audit(small_disk, 10)
    assert results(small_disk).items() >= done.items()
    assert not list(small_disk.rglob("attempt.json"))


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize("is_begun", [False, True], ids=["a new sweep", "a resumed sweep"])
def test_a_launch_on_a_full_disk_ends_with_a_message(
    in_tmp: Path, small_disk: Path, staged: Stage, is_begun: bool
) -> None:
    where = (f"output_dir={small_disk}/runs", f"tracking.uri=sqlite:///{in_tmp}/mlflow.db")
    if is_begun:
        assert staged(*TEN[:-1], "study.trials=2", *where).code() == 0
    filler = fill(small_disk)
    play = staged(*TEN, *where)
    assert play.code() == 1, play.text
    assert "Traceback" not in play.text
    assert "the disk is full" in play.text and "run the same command" in play.text
    filler.unlink()
    again = staged(*TEN, *where)
    assert again.code() == 0, again.text
    audit(small_disk, 10, in_tmp / "mlflow.db")


@pytest.mark.parametrize("name", ["write_json", "report"])
def test_a_full_disk_pauses_the_sweep_until_there_is_space(
    name: str, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = Notes()
    driver = driver_of(plan, tmp_path, notes)
    target: Any = driver.study if name == "report" else ledger
    whole, calls = getattr(target, name), []

    def full(*args: Any, **kwargs: Any) -> Any:
        calls.append(time.monotonic())
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return whole(*args, **kwargs)

    monkeypatch.setattr(target, name, full)
    monkeypatch.setattr("lorasweep.driver.disk_guard.RETRY_S", 0.3)
    driver.run()
    assert states(driver.study) == {"COMPLETE": 6} and sorted(driver.ledger.results) == list(range(6))
    assert "is full" in notes.texts[0] and "there is free space" in notes.texts[1] and len(notes.texts) == 2
    assert not any(driver.ledger.attempt(n) for n in range(6))


def test_no_trial_starts_on_a_disk_that_is_nearly_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    messages: list[str] = []
    guard = DiskGuard(tmp_path, messages.append)
    monkeypatch.setattr("lorasweep.driver.disk_guard.RETRY_S", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1 << 20))
        assert not guard.has_space() and not guard.has_space()
    assert guard.has_space()
    assert len(messages) == 2 and "1 MiB are free, 64 are needed" in messages[0]
