"""After one or two signals or a kill, live trials are saved, and late events are ignored."""

import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lorasweep.cli import main
from lorasweep.core.messages import Command, Event, Finished
from lorasweep.driver.worker_handle import WorkerHandle
from lorasweep.planning.plan import Plan
from lorasweep.testing import FakeExecutor
from tests.faults.stage import FORKS, Play
from tests.faults.sweeps import LONG, Notes, checkpoints, driver_of, is_alive, objectives, results, until, workers
from tests.settings import states

pytestmark = [pytest.mark.slow, pytest.mark.processes]
Stage = Callable[..., Play]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_stopped_sweep_saves_its_trials_and_goes_on(
    number: int, code: int, in_tmp: Path, staged: Stage, undisturbed: dict[int, Any]
) -> None:
    play = staged(*LONG, "tracking=none", is_real=True)
    until(lambda: checkpoints(in_tmp))
    os.kill(play.pid, number)
    assert play.code() == code, play.text
    assert "run the same command to continue" in play.text and "Traceback" not in play.text
    assert len(checkpoints(in_tmp)) + len(results(in_tmp)) == 2
    assert main([*LONG, "tracking=none"]) == 0
    assert objectives(in_tmp) == undisturbed and not checkpoints(in_tmp)


def test_a_second_ctrl_c_ends_the_tree_at_once_and_the_same_command_goes_on(
    in_tmp: Path, staged: Stage, undisturbed: dict[int, Any]
) -> None:
    play = staged(*LONG, "executor=local", "tracking=none", is_real=True)
    until(lambda: checkpoints(in_tmp))
    (worker,) = workers(play.pid)
    worker.suspend()  # so that the time slice, for which the first signal waits, does not end
    os.kill(play.pid, signal.SIGINT)
    until(lambda: "stopping at the end of this time slice" in play.text)
    assert not play.is_over and is_alive(worker.pid)
    os.kill(play.pid, signal.SIGINT)
    assert play.code(20) == 130, play.text
    assert "run the same command to continue" in play.text and "Traceback" not in play.text
    until(lambda: not is_alive(worker.pid), 5)
    assert main([*LONG, "tracking=none"]) == 0
    assert objectives(in_tmp) == undisturbed


class Far:
    """A worker that cannot be killed from here. Its second call sleeps until the driver has abandoned the worker."""

    def __init__(self) -> None:
        self.pool = ProcessPoolExecutor(1, mp_context=FORKS)
        self.answers: list[Future[list[Event]]] = []

    def submit(self, commands: Sequence[Command]) -> "Future[list[Event]]":
        if len(self.answers) == 1:
            self._signal(signal.SIGSTOP)
        self.answers.append(self.pool.submit(_advance_late, list(commands)))
        return self.answers[-1]

    def free_bytes(self) -> None:
        """Return None: there is no device."""

    def close(self) -> None:
        """Let the sleeping call return its events."""
        self._signal(signal.SIGCONT)
        self.answers[-1].result(timeout=60)
        self.pool.shutdown()

    def _signal(self, number: int) -> None:
        for pid in self.pool._processes or {}:
            os.kill(pid, number)


_fake = FakeExecutor()


def _advance_late(commands: list[Command]) -> list[Event]:
    events = _fake.submit(commands).result()
    return [replace(e, result=replace(e.result, reason="late")) if isinstance(e, Finished) else e for e in events]


def test_events_of_a_worker_after_its_deadline_are_ignored(_stage: None, plan: Plan, tmp_path: Path) -> None:
    notes, far = Notes(), Far()
    driver = driver_of(plan, tmp_path, notes, hang_min=0.02)
    driver.handles = [WorkerHandle(executor=far, num_slots=2, device="far", restart=FakeExecutor)]
    driver.run()
    late = [e.number for answer in far.answers for e in answer.result() if isinstance(e, Finished)]
    assert late == [0, 1] and any("did not respond for" in text for text in notes.texts)
    assert [r.reason for r in driver.ledger.results.values()] == [""] * 6
    assert [driver.ledger.attempt(n) for n in range(3)] == [1, 1, 0]
    assert states(driver.study) == {"COMPLETE": 6}
