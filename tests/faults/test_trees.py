"""All processes of a sweep end with its driver, of whatever kind, however the driver ended."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from lorasweep.core.messages import WorkerSettings
from lorasweep.executors.local import LocalExecutor
from lorasweep.executors.reaper import NAME, end_marked, marked
from tests.faults.stage import FORKS
from tests.faults.sweeps import children, is_alive, until

pytestmark = [pytest.mark.slow, pytest.mark.processes]
SLEEP = (sys.executable, "-S", "-c", "import time; time.sleep(600)")
SETTINGS = WorkerSettings(device="cpu", num_slots=1)
linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a session of its own cannot be found")


def sleeper() -> int:
    """Start a child."""
    return subprocess.Popen(SLEEP).pid


def escaped() -> int:
    """Start a child in its own session."""
    return subprocess.Popen(SLEEP, start_new_session=True).pid


def daemon() -> int:
    """Start a grandchild in its own session; its parent ends."""
    quiet = "start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL"
    starts = f"import subprocess; print(subprocess.Popen({SLEEP!r}, {quiet}).pid)"
    done = subprocess.run([sys.executable, "-c", starts], capture_output=True, text=True, check=True)
    return int(done.stdout)


def opened(executor: LocalExecutor) -> int:
    """Wait for the worker's process."""
    executor.submit([]).result(timeout=120)
    (pid,) = executor.processes
    return pid


def drive(note: Path) -> None:
    """Act as a driver whose worker has started all kinds of processes."""
    os.setpgid(0, 0)
    executor = LocalExecutor(SETTINGS)
    found = [opened(executor)]
    for start in (sleeper, escaped, daemon):
        future: Future[int] = executor.pool.submit(start)
        found.append(future.result(timeout=60))
    aside = note.with_suffix(".aside")
    aside.write_text(" ".join(map(str, found)))
    aside.rename(note)
    time.sleep(120)  # ends this process even if the test was killed


@pytest.fixture
def family(_stage: None, tmp_path: Path) -> Iterator[tuple[int, list[int]]]:
    """A driver and its descendants."""
    driver = FORKS.Process(target=drive, args=(tmp_path / "family",))
    driver.start()
    assert driver.pid is not None
    until(lambda: (tmp_path / "family").is_file() or driver.exitcode is not None)
    pids = [int(word) for word in (tmp_path / "family").read_text().split()]
    assert all(map(is_alive, pids)) and len(pids) == 4
    yield driver.pid, pids
    driver.kill()
    driver.join()
    for pid in filter(is_alive, pids):
        os.kill(pid, signal.SIGKILL)


@linux
@pytest.mark.parametrize("is_whole_group", [True, False], ids=["the whole group", "the driver alone"])
def test_no_process_outlives_a_killed_driver_by_more_than_about_a_second(
    family: tuple[int, list[int]], is_whole_group: bool
) -> None:
    driver, pids = family
    (os.killpg if is_whole_group else os.kill)(driver, signal.SIGKILL)
    began_s = time.monotonic()
    until(lambda: not any(map(is_alive, pids)), 20)
    assert time.monotonic() - began_s < 5  # a tenth of a second on an idle machine


def test_a_worker_that_was_stopped_can_be_ended_with_all_that_it_started() -> None:
    executor = LocalExecutor(SETTINGS)
    worker = opened(executor)
    starts = (sleeper, escaped, daemon) if sys.platform == "linux" else (sleeper,)
    started = [executor.pool.submit(start).result(timeout=60) for start in starts]
    os.kill(worker, signal.SIGSTOP)
    executor.close()
    until(lambda: not any(map(is_alive, started)), 5)
    assert not is_alive(worker)


@linux
def test_only_what_is_marked_is_ended() -> None:
    with marked("a.1"):
        ours = [subprocess.Popen(SLEEP), subprocess.Popen(SLEEP)]
    with marked("b.1"):
        other = subprocess.Popen(SLEEP)
    stranger = subprocess.Popen(SLEEP)
    end_marked("a.")
    assert [process.wait(timeout=5) for process in ours] == [-signal.SIGKILL] * 2
    assert other.poll() is None and stranger.poll() is None and NAME not in os.environ
    for process in (other, stranger):
        process.kill()
        process.wait()


@linux
def test_a_driver_has_one_keeper_however_many_workers() -> None:
    executors = [LocalExecutor(SETTINGS) for _ in range(3)]
    assert len(children(os.getpid(), "reaper.py")) == 1
    for executor in executors:
        executor.close()
