"""How many trials a second the driver alone can ask for, follow and record, and how that grows with their number.

    python -m benchmarks.driver [--trials 10000] [--seconds 60] [--out benchmarks/driver.json]

Workers are fake: each trial reports at one rung and ends, in no time. Study, ledger and tracker are real. Tracking goes
on beside the driver; where it is slower, the time until it was told everything is the last column.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.machine import describe_machine
from evaluation.metrics import METRICS
from lorasweep.cli import data_dir
from lorasweep.config.compose import compose
from lorasweep.core.result import Command, Event, Finished, Point, Progress, Rung, Start, TrialResult, TrialState
from lorasweep.driver.driver import Driver
from lorasweep.driver.ledger import Ledger
from lorasweep.driver.recorder import Record
from lorasweep.driver.worker_handle import Seat
from lorasweep.planning.plan import Plan, make_plan
from lorasweep.study.study import Study
from lorasweep.tracking.base import NullTracker, Opening, Tracker
from lorasweep.tracking.mlflow import make_tracker
from lorasweep.tracking.queue import Courier

SLOTS = 16


class FakeExecutor:
    """Ends every trial at the second call after its start."""

    pid = exit_code = None

    def __init__(self) -> None:
        self.live: dict[int, tuple[Start, int]] = {}

    def submit(self, commands: Sequence[Command]) -> "Future[list[Event]]":
        """Answer at once."""
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
        """There is nothing to end."""


def value_of(start: Start) -> float:
    """Return a loss that the learning rate decides."""
    return abs(start.spec.train.learning_rate - 3e-3)


def point_of(start: Start, step: int) -> Point:
    """Return what is measured at a rung."""
    loss = value_of(start)
    metrics = {"eval/loss": loss, "eval/accuracy": loss, "train/loss": loss, "train/first_loss": 4.0}
    return Point(step=step, metrics=metrics, time_s=float(step))


def rung_of(start: Start) -> Rung:
    """Return a trial's report."""
    return Rung(number=start.number, rung=1, value=value_of(start), point=point_of(start, 1), attempt=start.attempt)


def result_of(start: Start) -> TrialResult:
    """Return a complete trial."""
    return TrialResult(
        number=start.number, state=TrialState.COMPLETE, spec=start.spec, params={}, fingerprint=start.spec.fingerprint,
        objective=value_of(start), metrics={"loss": value_of(start)}, history=(point_of(start, 1), point_of(start, 2)),
        scores=tuple([value_of(start)] * 100), ended_s=time.time(),
    )  # fmt: skip


class Clock:
    """A display that notes when each trial ended, and ends the sweep when its time is over."""

    def __init__(self, seconds: float) -> None:
        self.began_s = time.perf_counter()
        self.seconds = seconds
        self.ended_s: list[float] = []
        self.driver: Driver | None = None

    def begin(self, *_: object) -> None: ...
    def started(self, *_: object) -> None: ...
    def progress(self, *_: object) -> None: ...
    def rung(self, *_: object) -> None: ...
    def say(self, *_: object) -> None: ...
    def end(self, *_: object) -> None: ...

    def finished(self, _: object) -> None:
        """Note the time."""
        self.ended_s.append(time.perf_counter() - self.began_s)
        if self.ended_s[-1] > self.seconds and self.driver is not None:
            self.driver.stop()


def fake_sweep(plan: Plan, folder: Path, clock: Clock, tracker: Tracker) -> Driver:
    """Return a driver over fake workers."""
    objective = plan.config.eval.objective
    ledger = Ledger(folder)
    maximize = METRICS[objective].is_maximized
    study = Study(folder / "study.db", plan.config.study, plan.domains, maximize=maximize, num_rungs=2)
    courier = Courier(tracker, Opening(config="", tags={}, data={}, swept={}, objective=objective, maximize=maximize))
    record = Record(ledger, study, courier, clock, objective=objective, provenance={})
    clock.driver = Driver(plan, record, clock, [Seat(executor=FakeExecutor(), num_slots=SLOTS, device="fake")])
    return clock.driver


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Trials a second: in all, of the first tenth, of the last, and until the tracker had heard of all."""

    sampler: str
    tracking: str
    num_trials: int
    seconds: float
    per_s: float
    first_per_s: float
    last_per_s: float
    told_per_s: float | None


def measure(sampler: str, backend: str, trials: int, seconds: float) -> Measured:
    """Run one fake sweep."""
    space = "train.learning_rate=tag(log,interval(1e-5,1e-1))"
    arguments = (space, f"study.sampler={sampler}", f"study.trials={trials}", "probes=none", "data.test=null")
    raw, _ = compose(arguments, data_dir("conf"), data_dir("sweeps"))
    assert raw is not None
    plan = make_plan(raw)
    with tempfile.TemporaryDirectory() as name:
        config = plan.config.tracking
        uri = f"sqlite:///{name}/mlflow.db"
        tracker = NullTracker() if backend == "none" else make_tracker(type(config)(uri=uri), "fake", name)
        clock = Clock(seconds)
        driver = fake_sweep(plan, Path(name) / "run", clock, tracker)
        clock.began_s = time.perf_counter()
        driver.run()
        left = driver.record.courier.close(lambda: None)
        told_s = time.perf_counter() - clock.began_s
        assert not left, f"{left} results were not told"
        driver.ledger.close()
    ended = clock.ended_s
    tenth = max(1, len(ended) // 10)
    return Measured(
        sampler=sampler, tracking=backend, num_trials=len(ended), seconds=ended[-1], per_s=len(ended) / ended[-1],
        first_per_s=tenth / ended[tenth - 1], last_per_s=tenth / (ended[-1] - ended[-1 - tenth]),
        told_per_s=None if backend == "none" else len(ended) / told_s,
    )  # fmt: skip


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/driver.json"))
    args = parser.parse_args()
    sides = (("random", "none"), ("tpe", "none"), ("random", "mlflow"))
    found = [measure(sampler, backend, args.trials, args.seconds) for sampler, backend in sides]
    print("| sampler | tracking | trials | seconds | trials/s | first tenth | last tenth | told/s |")
    print("|---|---|---|---|---|---|---|---|")
    for m in found:
        rates = f"{m.per_s:.1f} | {m.first_per_s:.1f} | {m.last_per_s:.1f}"
        told = f"{m.told_per_s:.1f}" if m.told_per_s else "–"
        print(f"| {m.sampler} | {m.tracking} | {m.num_trials:,} | {m.seconds:.0f} | {rates} | {told} |")
    args.out.write_text(json.dumps({"machine": describe_machine(), "cases": [asdict(m) for m in found]}, indent=1))


if __name__ == "__main__":
    main()
