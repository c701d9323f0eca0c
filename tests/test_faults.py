"""What breaks around a sweep: nothing is lost, and nothing is done twice. Each fault is injected for real."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import psutil
import pytest

from benchmarks.driver import Clock, FakeExecutor, fake_sweep
from lorasweep.cli import main
from lorasweep.driver import Driver
from lorasweep.executors.local import LocalExecutor
from lorasweep.plan import Plan, make_plan
from lorasweep.result import CHECKPOINT, Command, Event, Finished, Start, TrialState, WorkerSettings
from lorasweep.room import Room
from lorasweep.seat import Seat
from lorasweep.tracker import NullTracker
from tests.settings import composed
from tests.test_run import QUICK, REPO, board, launch, states, trial_files

LONG = (*QUICK, "lora.r=2,4", "study.sampler=grid", "train.max_steps=40", "eval.rungs=8", "eval.rung_limit=4")
Launch = Callable[..., "subprocess.Popen[str]"]
SEEDS = range(int(os.environ.get("LORASWEEP_KILLS", "1")))  # of the randomised test; more in a longer run


def until(claim: Any, timeout_s: float = 120.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not claim():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


def objectives(folder: Path) -> dict[int, Any]:
    return {t["trial"]: (t["state"], t["objective"]) for t in board(folder)["trials"]}


def checkpoints(folder: Path) -> list[Path]:
    return list(folder.glob(f"runs/*/trials/*/{CHECKPOINT}"))


def workers(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    """Return a driver's worker processes."""
    try:
        found = psutil.Process(process.pid).children()
        return [p for p in found if "spawn_main" in " ".join(p.cmdline()) and "resource_tracker" not in p.cmdline()[-1]]
    except psutil.NoSuchProcess:
        return []


@pytest.fixture
def launched(in_tmp: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Launch sweeps here; whatever a failing test leaves alive is ended."""
    made: list[subprocess.Popen[str]] = []

    def one(*arguments: str) -> "subprocess.Popen[str]":
        made.append(launch(in_tmp, *arguments))
        return made[-1]

    yield one
    for process in made:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Any]:
    """What the long sweep comes to when nothing happens."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert main([*LONG, "tracking=none", f"output_dir={folder}/runs"]) == 0
    return objectives(folder)


def test_a_killed_worker_is_replaced_and_its_trials_go_on(
    in_tmp: Path, launched: Launch, undisturbed: dict[int, Any]
) -> None:
    process = launched(*LONG, "executor=local", "tracking=none")
    until(lambda: checkpoints(in_tmp))
    for worker in workers(process):
        worker.kill()
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert "go on in a new one" in output
    assert objectives(in_tmp) == undisturbed and not checkpoints(in_tmp)
    attempts = [json.loads(f.read_text())["attempt"] for f in in_tmp.glob("runs/*/trials/*/attempt.json")]
    assert attempts == [1, 1]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_stopped_sweep_saves_its_trials_and_goes_on(
    number: int, code: int, in_tmp: Path, launched: Launch, undisturbed: dict[int, Any]
) -> None:
    process = launched(*LONG, "tracking=none")
    until(lambda: checkpoints(in_tmp))
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == code, output
    assert "run the same command to go on" in output and "Traceback" not in output
    assert len(checkpoints(in_tmp)) + len(trial_files(in_tmp)) == 2
    assert main([*LONG, "tracking=none"]) == 0
    assert objectives(in_tmp) == undisturbed and not checkpoints(in_tmp)


@pytest.mark.parametrize("seed", SEEDS)
def test_random_kills_lose_nothing_and_repeat_nothing(
    in_tmp: Path, launched: Launch, undisturbed: dict[int, Any], seed: int
) -> None:
    """The driver, or its worker, is killed at random moments; the same command ends as if nothing had happened."""
    from mlflow import MlflowClient

    draw = random.Random(seed)
    for _ in range(2):
        process = launched(*LONG, "executor=local")
        until(lambda p=process: workers(p) or p.poll() is not None)
        time.sleep(draw.uniform(0, 12))
        victims = [psutil.Process(process.pid), *workers(process)] if process.poll() is None else []
        family = [p for p in victims[:1] for p in p.children(recursive=True)]
        for victim in draw.sample(victims, min(1, len(victims))):
            victim.kill()
        time.sleep(draw.uniform(0, 2))
        process.kill()
        process.wait()
        until(lambda f=family: not [p for p in f if p.is_running() and p.status() != psutil.STATUS_ZOMBIE], 10)
    assert main([*LONG]) == 0
    assert objectives(in_tmp) == undisturbed
    assert states(in_tmp).count("COMPLETE") == 2 and "RUNNING" not in states(in_tmp)
    client = MlflowClient(f"sqlite:///{in_tmp / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("lorasweep")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.`lorasweep.kind` = 'trial'")
    assert sorted(r.data.metrics["objective"] for r in runs) == sorted(v for _, v in undisturbed.values())
    assert {r.info.status for r in runs} == {"FINISHED"}


def test_a_worker_that_was_stopped_can_be_ended_with_all_that_it_started() -> None:
    executor = LocalExecutor(WorkerSettings(device="cpu", num_slots=1))
    executor.submit([]).result(timeout=120)
    (pid,) = executor.processes
    child = executor.pool.submit(_sleeper).result(timeout=60)
    os.kill(pid, signal.SIGSTOP)
    executor.close()
    until(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE, 5)
    assert not psutil.pid_exists(pid)


def _sleeper() -> int:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid


# Below, workers are fake: what counts is what the driver makes of them.


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan(
        composed("train.learning_rate=tag(log,interval(1e-5,1e-1))", "study.trials=6", "probes=none", "data.test=null")
    )


class Silent(FakeExecutor):
    """Never answers."""

    is_closed = False

    def submit(self, commands: Any) -> "Future[list[Event]]":
        return Future()

    def close(self) -> None:
        self.is_closed = True


class Failing(FakeExecutor):
    """Fails every trial for the same reason."""

    reason = "Traceback (most recent call last):\n  here\nRuntimeError: no kernel image"

    def submit(self, commands: Any) -> "Future[list[Event]]":
        from lorasweep.outcome import failed

        future: Future[list[Event]] = Future()
        future.set_result([failed(c, TrialState.FAILED, self.reason) for c in commands if isinstance(c, Start)])
        return future


class Said(Clock):
    """Remembers what was said."""

    def __init__(self) -> None:
        super().__init__(600)
        self.texts: list[str] = []

    def say(self, *texts: object) -> None:
        self.texts += map(str, texts)


def driver_of(plan: Plan, folder: Path, said: Said, **settings: Any) -> Driver:
    from dataclasses import replace

    study = replace(plan.config.study, **settings)
    return fake_sweep(replace(plan, config=replace(plan.config, study=study)), folder, said, NullTracker())


def test_a_silent_worker_is_ended_and_its_trials_are_done_by_another(plan: Plan, tmp_path: Path) -> None:
    said, silent = Said(), Silent()
    driver = driver_of(plan, tmp_path, said, hang_min=0.001)
    driver.seats = [Seat(executor=silent, num_slots=2, device="fake", reopen=FakeExecutor)]
    driver.run()
    assert silent.is_closed and any("was silent for" in text for text in said.texts)
    assert [r.state for r in driver.ledger.results.values()] == [TrialState.COMPLETE] * 6
    assert [driver.ledger.attempt(n) for n in range(3)] == [1, 1, 0]
    assert driver.study.states() == {"COMPLETE": 6}


def test_a_trial_whose_workers_always_go_is_given_up_and_its_last_try_is_alone(plan: Plan, tmp_path: Path) -> None:
    together: list[int] = []

    class Deadly(FakeExecutor):
        """Is lost whenever it is given trial 0."""

        def submit(self, commands: Any) -> "Future[list[Event]]":
            if any(isinstance(c, Start) and c.number == 0 for c in commands):
                together.append(sum(isinstance(c, Start) for c in commands))
                return Future()
            return super().submit(commands)

    driver = driver_of(plan, tmp_path, Said(), hang_min=0.0005)
    driver.seats = [Seat(executor=Deadly(), num_slots=3, device="fake", reopen=Deadly)]
    driver.run()
    ended = {n: r.state for n, r in driver.ledger.results.items()}
    assert ended.pop(0) is TrialState.FAILED and set(ended.values()) == {TrialState.COMPLETE}
    assert len(together) == 3 and together[-1] == 1
    assert "as it did 2 times before" in driver.ledger.results[0].reason


def test_what_an_older_attempt_says_is_not_listened_to(plan: Plan, tmp_path: Path) -> None:
    class Late(FakeExecutor):
        """Says first what a worker before it might have said."""

        def submit(self, commands: Any) -> "Future[list[Event]]":
            future = super().submit(commands)
            stale = [
                Finished(number=e.number, attempt=e.attempt - 1, result=_worse(e))
                for e in future.result()
                if isinstance(e, Finished)
            ]
            answer: Future[list[Event]] = Future()
            answer.set_result([*stale, *future.result()])
            return answer

    driver = driver_of(plan, tmp_path, Said())
    driver.seats = [Seat(executor=Late(), num_slots=3, device="fake")]
    driver.run()
    assert {r.state for r in driver.ledger.results.values()} == {TrialState.COMPLETE}


def _worse(event: Finished) -> Any:
    from dataclasses import replace

    return replace(event.result, state=TrialState.FAILED)


def test_the_same_failure_again_and_again_halts_the_sweep_and_says_why(plan: Plan, tmp_path: Path) -> None:
    driver = driver_of(plan, tmp_path, Said(), halt_after=4, trials=6)
    driver.seats = [Seat(executor=Failing(), num_slots=1, device="fake")]
    driver.run()
    assert driver.outbox.halted == "4 trials in a row failed for the same reason: RuntimeError: no kernel image"
    assert len(driver.ledger.results) == 4 and not driver.is_finished


def test_trials_that_diverge_halt_nothing(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Failing, "reason", "loss is not finite at step 2")
    driver = driver_of(plan, tmp_path, Said(), halt_after=2)
    driver.seats = [Seat(executor=Failing(), num_slots=1, device="fake")]
    driver.run()
    assert len(driver.ledger.results) == 6 and driver.is_finished


@pytest.mark.parametrize("where", ["lorasweep.ledger.write_json", "lorasweep.driver.Study.report"])
def test_a_full_disk_pauses_the_sweep_until_there_is_room(
    where: str, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = Said()
    driver = driver_of(plan, tmp_path, said)
    target: Any = driver.study if where.endswith("report") else __import__("lorasweep.ledger").ledger
    name = where.rpartition(".")[2]
    whole, calls = getattr(target, name), []

    def full(*args: Any, **kwargs: Any) -> Any:
        calls.append(time.monotonic())
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return whole(*args, **kwargs)

    monkeypatch.setattr(target, name, full)
    monkeypatch.setattr("lorasweep.room.PATIENCE_S", 0.3)
    driver.run()
    assert driver.study.states() == {"COMPLETE": 6} and sorted(driver.ledger.results) == list(range(6))
    assert "is full" in said.texts[0] and "there is room" in said.texts[1] and len(said.texts) == 2
    assert not any(driver.ledger.attempt(n) for n in range(6))


def test_no_trial_starts_on_a_disk_that_is_nearly_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    room = Room(tmp_path, said.append)
    monkeypatch.setattr("lorasweep.room.PATIENCE_S", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1 << 20))
        assert not room.is_open() and not room.is_open()
    assert room.is_open()
    assert len(said) == 2 and "1 MiB are free, 64 are needed" in said[0]


def test_a_tracker_that_is_away_for_a_while_is_told_everything_later(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Away(NullTracker):
        destination = "there"

        def __init__(self) -> None:
            self.calls, self.told = 0, [0][:0]

        def export(self, result: Any) -> None:
            self.calls += 1
            if self.calls == 2:
                raise ConnectionError("no route to host")
            self.told.append(result.number)

    tracker = Away()
    monkeypatch.setattr("lorasweep.courier.AWAY_S", 0.0)
    driver = fake_sweep(plan, tmp_path, Said(), tracker)
    driver.run()
    assert sorted(tracker.told) == list(range(6)) and len(tracker.told) == 6
    assert all(driver.ledger.is_exported(n, "there") for n in range(6))


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


def test_a_sweep_that_ran_on_goes_through_no_trial_twice(plan: Plan, tmp_path: Path) -> None:
    started: list[Command] = []

    class Noting(FakeExecutor):
        def submit(self, commands: Any) -> "Future[list[Event]]":
            started.extend(c for c in commands if isinstance(c, Start))
            return super().submit(commands)

    for _ in range(2):
        driver = driver_of(plan, tmp_path, Said())
        driver.seats = [Seat(executor=Noting(), num_slots=3, device="fake")]
        driver.run()
        driver.ledger.close()
    assert len(started) == 6
    stored = optuna.load_study(study_name="sweep", storage=f"sqlite:///{tmp_path / 'study.db'}")
    assert len(stored.trials) == 6 and REPO.is_dir()
