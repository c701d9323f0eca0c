"""A worker that trains nothing, for tests of what stands around workers: driver, study, ledger, trackers, executors."""

import time
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

from lorasweep.core.result import Command, Event, Finished, Point, Progress, Rung, Start, TrialResult, TrialState
from lorasweep.driver.driver import Driver
from lorasweep.driver.ledger import Ledger
from lorasweep.driver.recorder import Record
from lorasweep.driver.worker_handle import Display, Seat
from lorasweep.planning.plan import Plan
from lorasweep.study.study import Study
from lorasweep.tracking.base import Opening, Tracker
from lorasweep.tracking.queue import Courier
from lorasweep.worker.scoring import is_maximized

SLOTS = 16


class FakeExecutor:
    """Each trial reports at one rung and completes at the next call; both calls return at once."""

    pid = exit_code = None

    def __init__(self) -> None:
        self.live: dict[int, tuple[Start, int]] = {}

    def submit(self, commands: Sequence[Command]) -> "Future[list[Event]]":
        """Return a future that is done."""
        self.live |= {c.number: (c, 0) for c in commands if isinstance(c, Start)}
        events: list[Event] = []
        for number, (start, calls) in list(self.live.items()):
            events.append(Progress(number=number, step=calls + 1, num_steps=2, loss=1.0, its_per_s=1.0))
            last = Finished(number=number, attempt=start.attempt, result=result_of(start))
            events.append(rung_of(start) if calls == 0 else last)
            self.live[number] = (start, calls + 1)
            if calls:
                del self.live[number]
        future: Future[list[Event]] = Future()
        future.set_result(events)
        return future

    def close(self) -> None:
        """Hold nothing open."""


def value_of(start: Start) -> float:
    """Return the objective of a trial, which its learning rate decides."""
    return abs(start.spec.train.learning_rate - 3e-3)


def point_of(start: Start, step: int) -> Point:
    """Return the metrics of a trial at a rung."""
    loss = value_of(start)
    metrics = {"eval/loss": loss, "eval/accuracy": loss, "train/loss": loss, "train/first_loss": 4.0}
    return Point(step=step, metrics=metrics, time_s=float(step))


def rung_of(start: Start) -> Rung:
    """Return the report of a trial at its only rung."""
    return Rung(number=start.number, rung=1, value=value_of(start), point=point_of(start, 1), attempt=start.attempt)


def result_of(start: Start) -> TrialResult:
    """Return the result of a completed trial."""
    return TrialResult(
        number=start.number, state=TrialState.COMPLETE, spec=start.spec, params={}, fingerprint=start.spec.fingerprint,
        objective=value_of(start), metrics={"loss": value_of(start)}, history=(point_of(start, 1), point_of(start, 2)),
        scores=tuple([value_of(start)] * 100), ended_s=time.time(),
    )  # fmt: skip


class SilentDisplay:
    """Shows nothing."""

    def begin(self, *_: object) -> None: ...
    def started(self, *_: object) -> None: ...
    def progress(self, *_: object) -> None: ...
    def rung(self, *_: object) -> None: ...
    def finished(self, *_: object) -> None: ...
    def say(self, *_: object) -> None: ...
    def end(self, *_: object) -> None: ...


def fake_sweep(plan: Plan, folder: Path, display: Display, tracker: Tracker) -> Driver:
    """Return a driver with one `FakeExecutor`; study, ledger and tracker are real."""
    objective = plan.config.eval.objective
    maximize = is_maximized(objective)
    study = Study(folder / "study.db", plan.config.study, plan.domains, maximize=maximize, num_rungs=2)
    courier = Courier(tracker, Opening(config="", tags={}, data={}, swept={}, objective=objective, maximize=maximize))
    record = Record(Ledger(folder), study, courier, display, objective=objective, provenance={})
    return Driver(plan, record, display, [Seat(executor=FakeExecutor(), num_slots=SLOTS, device="fake")])
