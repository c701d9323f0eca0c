"""A tracking server that is down, dies, hangs or loses responses delays no trial and gets every result once."""

import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from lorasweep.config.settings import TrackingSettings
from lorasweep.core.errors import ConfigError
from lorasweep.core.messages import Event, Summary
from lorasweep.driver.driver import Driver
from lorasweep.driver.ledger import Ledger
from lorasweep.planning.make import make_plan
from lorasweep.planning.plan import Plan
from lorasweep.testing import FakeExecutor, fake_driver, tracking_queue
from lorasweep.tracking.mlflow import MlflowTracker
from lorasweep.tracking.queue import TrackingQueue
from tests.mlflow_server import LossyProxy, Server
from tests.settings import composed

pytestmark = [pytest.mark.slow, pytest.mark.processes]
TRIALS = 6


@pytest.fixture(scope="module")
def plan() -> Plan:
    space = "train.learning_rate=tag(log,interval(1e-5,1e-1))"
    return make_plan(composed(space, f"study.trials={TRIALS}", "probes=none", "data.test=null"))


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")
    monkeypatch.setattr("lorasweep.tracking.queue.LAST_WAIT_S", 0.0)
    made = Server(tmp_path)
    yield made
    made.kill()


@dataclass
class Sweep:
    """A sweep over fake workers, one trial at a time, whose tracker is the server."""

    driver: Driver
    tracking: TrackingQueue

    def run(self) -> int:
        """Run the sweep and return how many events the tracker did not accept."""
        self.driver.run()
        self.driver.recorder.emit(Summary(note="note", files=[], metrics={}, adapter=None, is_finished=True))
        left = self.tracking.close()
        self.driver.ledger.close()
        return left

    @property
    def exported(self) -> list[bool]:
        return [self.tracking.is_exported(number) for number in range(TRIALS)]


def sweep(plan: Plan, folder: Path, uri: str, executor: FakeExecutor | None = None) -> Sweep:
    """Return a sweep that has not started."""
    tracker, ledger = MlflowTracker(TrackingSettings(uri=uri), "fake", "/runs/fake-1"), Ledger(folder / "run")
    tracking = tracking_queue(tracker, ledger)
    driver = fake_driver(plan, ledger, tracking, executor=executor)
    driver.handles[0].num_slots = 1
    return Sweep(driver, tracking)


def trials_at(uri: str) -> list[Run]:
    """Return the trials' runs that a server has; all belong to the one run of the sweep."""
    client = MlflowClient(uri)
    found = client.get_experiment_by_name("lorasweep")
    assert found is not None
    runs = list(client.search_runs([found.experiment_id]))
    parents = [r for r in runs if r.data.tags["lorasweep.kind"] == "sweep"]
    assert [r.info.status for r in parents] == ["FINISHED"]
    children = [r for r in runs if r.data.tags["lorasweep.kind"] == "trial"]
    assert {r.data.tags["mlflow.parentRunId"] for r in children} == {parents[0].info.run_id}
    return children


def is_uploaded_once(driver: Driver, uri: str) -> bool:
    """Return whether the server has every result exactly once, with its value."""
    runs = trials_at(uri)
    uploaded = sorted(r.data.metrics["accuracy"] for r in runs)
    known = sorted(result.objective or 0.0 for result in driver.ledger.results.values())
    return uploaded == known and {r.info.status for r in runs} == {"FINISHED"} and len(runs) == TRIALS


def test_results_reach_a_server_that_was_down_at_launch_in_the_next_launch(
    plan: Plan, tmp_path: Path, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    first = sweep(plan, tmp_path, server.uri)
    assert first.run() == TRIALS + 1
    assert len(first.driver.ledger.results) == TRIALS
    assert "does not answer; results are kept in the run folder" in caplog.text
    server.start()
    second = sweep(plan, tmp_path, server.uri)
    assert second.run() == 0
    assert is_uploaded_once(second.driver, server.uri)


class Pausing(FakeExecutor):
    """Calls a function at the third call, and records the time between two calls of the driver."""

    def __init__(self, fault: Any) -> None:
        super().__init__()
        self.fault, self.num_calls = fault, 0
        self.ended_s, self.longest_s = time.monotonic(), 0.0

    def submit(self, commands: Any) -> "Future[list[Event]]":
        self.num_calls += 1
        if self.num_calls > 3:
            self.longest_s = max(self.longest_s, time.monotonic() - self.ended_s)
        if self.num_calls == 3:
            self.fault()
        answer = super().submit(commands)
        self.ended_s = time.monotonic()
        return answer


@pytest.mark.parametrize("fault", ["kill", "freeze"])
def test_a_server_that_dies_or_hangs_delays_no_trial_and_gets_results_when_it_is_back(
    plan: Plan, tmp_path: Path, server: Server, fault: str
) -> None:
    server.start()
    worker = Pausing(getattr(server, fault))
    first = sweep(plan, tmp_path, server.uri, worker)
    first.run()
    assert len(first.driver.ledger.results) == TRIALS
    assert worker.longest_s < 1.0  # a request without response takes three seconds here, fifteen by default
    assert not all(first.exported)
    server.kill()
    server.start()
    again = sweep(plan, tmp_path, server.uri)
    again.run()
    assert is_uploaded_once(again.driver, server.uri)


def test_answers_that_are_lost_make_nothing_twice(
    plan: Plan, tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lorasweep.tracking.queue.MAX_FAILURES", 9)
    server.start()
    proxy = LossyProxy(server)
    try:
        lossy = sweep(plan, tmp_path, proxy.uri)
        proxy.losing = {"runs/create", "runs/log-batch", "runs/update"}
        losing = set(proxy.losing)
        lossy.run()
        assert set(proxy.lost) == losing
        assert is_uploaded_once(lossy.driver, server.uri)
    finally:
        proxy.close()


def test_a_server_that_refuses_is_a_configuration_error(tmp_path: Path, server: Server) -> None:
    """The response would not change later."""
    server.start()
    with pytest.raises(ConfigError, match=r"tracking\.uri: .* cannot be used"):
        MlflowTracker(TrackingSettings(uri=f"{server.uri}/no-such-prefix"), "fake", "/runs/fake-1").open()
