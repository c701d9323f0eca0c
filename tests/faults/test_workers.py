"""The driver with fake workers that hang, die, are late or fail."""

from concurrent.futures import Future
from pathlib import Path
from typing import Any

import optuna
import pytest

from lorasweep.core.messages import Command, Event, Finished, Start, SweepEvent
from lorasweep.core.result import TrialState
from lorasweep.driver.ledger import Ledger
from lorasweep.driver.worker_handle import WorkerHandle
from lorasweep.planning.plan import Plan
from lorasweep.testing import FakeExecutor, fake_driver
from lorasweep.tracking.base import SweepInfo
from lorasweep.tracking.queue import TrackingQueue
from tests.faults.sweeps import Notes, driver_of
from tests.settings import states

pytestmark = pytest.mark.slow


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
        from lorasweep.worker.evaluate import ended

        future: Future[list[Event]] = Future()
        future.set_result([ended(c.trial, TrialState.FAILED, self.reason) for c in commands if isinstance(c, Start)])
        return future


def test_a_silent_worker_is_ended_and_its_trials_are_done_by_another(plan: Plan, tmp_path: Path) -> None:
    notes, silent = Notes(), Silent()
    driver = driver_of(plan, tmp_path, notes, hang_min=0.001)
    driver.handles = [WorkerHandle(executor=silent, num_slots=2, device="fake", restart=FakeExecutor)]
    driver.run()
    assert silent.is_closed and any("did not respond for" in text for text in notes.texts)
    assert [r.state for r in driver.ledger.results.values()] == [TrialState.COMPLETE] * 6
    assert [driver.ledger.attempt(n) for n in range(3)] == [1, 1, 0]
    assert states(driver.study) == {"COMPLETE": 6}


def test_a_trial_whose_workers_always_go_is_given_up_and_its_last_try_is_alone(plan: Plan, tmp_path: Path) -> None:
    together: list[int] = []

    class Deadly(FakeExecutor):
        """Dies whenever it gets trial 0."""

        def submit(self, commands: Any) -> "Future[list[Event]]":
            if any(isinstance(c, Start) and c.number == 0 for c in commands):
                together.append(sum(isinstance(c, Start) for c in commands))
                return Future()
            return super().submit(commands)

    driver = driver_of(plan, tmp_path, Notes(), hang_min=0.0005)
    driver.handles = [WorkerHandle(executor=Deadly(), num_slots=3, device="fake", restart=Deadly)]
    driver.run()
    ended = {n: r.state for n, r in driver.ledger.results.items()}
    assert ended.pop(0) is TrialState.FAILED and set(ended.values()) == {TrialState.COMPLETE}
    assert len(together) == 3 and together[-1] == 1
    assert "as it did 2 times before" in driver.ledger.results[0].reason


def test_events_of_earlier_attempts_are_ignored(plan: Plan, tmp_path: Path) -> None:
    class Late(FakeExecutor):
        """First returns events of an earlier worker."""

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

    driver = driver_of(plan, tmp_path, Notes())
    driver.handles = [WorkerHandle(executor=Late(), num_slots=3, device="fake")]
    driver.run()
    assert {r.state for r in driver.ledger.results.values()} == {TrialState.COMPLETE}


def _worse(event: Finished) -> Any:
    from dataclasses import replace

    return replace(event.result, state=TrialState.FAILED)


def test_repeated_equal_failures_halt_the_sweep_with_the_reason(plan: Plan, tmp_path: Path) -> None:
    driver = driver_of(plan, tmp_path, Notes(), halt_after=4, trials=6)
    driver.handles = [WorkerHandle(executor=Failing(), num_slots=1, device="fake")]
    driver.run()
    assert driver.halted == "4 trials in a row failed for the same reason: RuntimeError: no kernel image"
    assert len(driver.ledger.results) == 4 and not driver.is_finished


def test_trials_that_diverge_halt_nothing(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Failing, "reason", "loss is not finite at step 2")
    driver = driver_of(plan, tmp_path, Notes(), halt_after=2)
    driver.handles = [WorkerHandle(executor=Failing(), num_slots=1, device="fake")]
    driver.run()
    assert len(driver.ledger.results) == 6 and driver.is_finished


class Away:
    """A tracker whose second result is lost."""

    page, destination = "", "there"

    def __init__(self) -> None:
        self.num_calls, self.numbers = 0, list[int]()

    def begin(self, opening: SweepInfo) -> None: ...

    def handle(self, event: SweepEvent) -> None:
        if isinstance(event, Finished):
            self.num_calls += 1
            if self.num_calls == 2:
                raise ConnectionError("no route to host")
            self.numbers.append(event.number)


def test_a_tracker_that_is_away_for_a_while_gets_everything_later(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lorasweep.tracking.queue.MAX_WAIT_S", 0.0)
    tracker, exported = Away(), set[int]()
    opening = SweepInfo(config="", tags={}, data={}, swept={}, objective="accuracy")
    queue = TrackingQueue(tracker, opening, is_exported=exported.__contains__, mark_exported=exported.add)
    fake_driver(plan, Ledger(tmp_path), queue).run()
    assert queue.close() == 0
    assert sorted(tracker.numbers) == list(range(6)) and exported == set(range(6))


def test_a_sweep_that_ran_on_goes_through_no_trial_twice(plan: Plan, tmp_path: Path) -> None:
    started: list[Command] = []

    class Noting(FakeExecutor):
        def submit(self, commands: Any) -> "Future[list[Event]]":
            started.extend(c for c in commands if isinstance(c, Start))
            return super().submit(commands)

    for _ in range(2):
        driver = driver_of(plan, tmp_path, Notes())
        driver.handles = [WorkerHandle(executor=Noting(), num_slots=3, device="fake")]
        driver.run()
        driver.ledger.close()
    assert len(started) == 6
    stored = optuna.load_study(study_name="sweep", storage=f"sqlite:///{tmp_path / 'study.db'}")
    assert len(stored.trials) == 6
