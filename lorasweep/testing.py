"""For tests and for authors of executors: a worker that trains nothing, and a test suite for executors."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

from lorasweep.adapters.methods.lora import LoraSpec
from lorasweep.core.messages import (
    CHECKPOINT,
    Command,
    Event,
    Evicted,
    Finished,
    Listener,
    Note,
    Pause,
    Progress,
    Rung,
    Score,
    Scored,
    Start,
    Stop,
    WorkerSettings,
)
from lorasweep.core.result import Point, TrialResult, TrialState
from lorasweep.core.spec import DataSpec, EvalSpec, ModelSpec, TrainSpec, TrialSpec
from lorasweep.core.trial import Trial
from lorasweep.driver.driver import Driver
from lorasweep.driver.ledger import Ledger
from lorasweep.driver.recorder import Recorder
from lorasweep.driver.worker_handle import WorkerHandle
from lorasweep.executors.base import Executor
from lorasweep.planning.plan import Plan
from lorasweep.study.study import Study
from lorasweep.tracking.base import SweepInfo, Tracker
from lorasweep.tracking.queue import TrackingQueue

SLOTS = 16
TIMEOUT_S = 120.0  # of one call, which may load the demo's base


class FakeExecutor:
    """Each trial reports at one rung and completes at the next call. Both calls return at once."""

    def __init__(self) -> None:
        self.live: dict[int, tuple[Trial, int]] = {}

    def submit(self, commands: Sequence[Command]) -> "Future[list[Event]]":
        """Return a future that is done."""
        self.live |= {c.number: (c.trial, 0) for c in commands if isinstance(c, Start)}
        events: list[Event] = []
        for number, (trial, calls) in list(self.live.items()):
            events.append(Progress(number=number, step=calls + 1, num_steps=2, loss=1.0, its_per_s=1.0))
            last = Finished(number=number, attempt=trial.attempt, result=fake_result(trial))
            events.append(fake_rung(trial) if calls == 0 else last)
            self.live[number] = (trial, calls + 1)
            if calls:
                del self.live[number]
        future: Future[list[Event]] = Future()
        future.set_result(events)
        return future

    def free_bytes(self) -> None:
        """Return None: there is no device."""

    def close(self) -> None:
        """Do nothing: no resource is open."""


def fake_objective(trial: Trial) -> float:
    """Return the objective of a fake trial, a function of its learning rate."""
    return abs(trial.spec.train.learning_rate - 3e-3)


def fake_rung(trial: Trial) -> Rung:
    """Return a fake trial's report at its only rung."""
    value = fake_objective(trial)
    return Rung(number=trial.number, rung=1, value=value, point=_point(trial, 1), attempt=trial.attempt)


def fake_result(trial: Trial) -> TrialResult:
    """Return the result of a completed fake trial."""
    value = fake_objective(trial)
    return replace(
        TrialResult.of(trial, TrialState.COMPLETE),
        objective=value,
        metrics={"loss": value},
        history=(_point(trial, 1), _point(trial, 2)),
        scores=tuple([value] * 100),
    )


def _point(trial: Trial, step: int) -> Point:
    loss = fake_objective(trial)
    metrics = {"eval/loss": loss, "eval/accuracy": loss, "train/loss": loss, "train/first_loss": 4.0}
    return Point(step=step, metrics=metrics, time_s=float(step))


def fake_driver(plan: Plan, ledger: Ledger, *listeners: Listener, executor: Executor | None = None) -> Driver:
    """Return a driver with one fake worker; study and ledger are real."""
    objective = plan.config.eval.objective
    study = Study(
        ledger.folder / "study.db",
        plan.config.study,
        plan.domains,
        objective=objective,
        num_rungs=2,
    )
    recorder = Recorder(ledger, study, listeners, objective=objective, provenance={})
    handle = WorkerHandle(executor=executor or FakeExecutor(), num_slots=SLOTS, device="fake")
    return Driver(plan, recorder, [handle])


def tracking_queue(tracker: Tracker, ledger: Ledger, objective: str = "accuracy") -> TrackingQueue:
    """Return a queue that exports a ledger's results to a tracker."""
    return TrackingQueue(
        tracker,
        SweepInfo(config="", tags={}, data={}, swept={}, objective=objective),
        is_exported=lambda number: ledger.is_exported(number, tracker.destination),
        mark_exported=lambda number: ledger.mark_exported(number, tracker.destination),
    )


MakeExecutor = Callable[[WorkerSettings], Executor]


class ExecutorTestCase:
    """Inherit from this, and define `make` and `reference` as fixtures, to test an executor with pytest.

    `make` starts an executor from settings. `reference` is the same for `InlineExecutor`: results must be equal.
    """

    settings = WorkerSettings(device="cpu", num_slots=2, num_threads=1)

    def test_trials_train_to_their_end_with_the_results_of_an_inline_worker(
        self, make: MakeExecutor, reference: MakeExecutor, tmp_path: Path
    ) -> None:
        """Train two trials together."""
        ours = _trained(make(self.settings), tmp_path / "ours")
        theirs = _trained(reference(self.settings), tmp_path / "theirs")
        assert [r.state for r in ours] == [TrialState.COMPLETE] * 2
        assert [(r.number, r.params, r.metrics, r.scores) for r in ours] == [
            (r.number, r.params, r.metrics, r.scores) for r in theirs
        ]

    def test_a_paused_trial_continues_from_its_checkpoint(self, make: MakeExecutor, tmp_path: Path) -> None:
        """Pause a trial, close its executor and start the trial in another executor."""
        executor = make(self.settings)
        start = Start(trial=example_trial(0, max_steps=40), folder=str(tmp_path))
        events = _called(executor, [start])
        while not any(isinstance(event, Rung) for event in events):
            events = _called(executor, [])
        _called(executor, [Pause()])
        executor.close()
        assert (tmp_path / CHECKPOINT).is_file()
        again = make(self.settings)
        steps = [e.step for e in _called(again, [start]) + _called(again, []) if isinstance(e, Progress)]
        again.close()
        assert steps and min(steps) >= 10

    def test_a_stopped_trial_ends_as_pruned(self, make: MakeExecutor, tmp_path: Path) -> None:
        """Stop a live trial."""
        executor = make(self.settings)
        _called(executor, [Start(trial=example_trial(0, max_steps=4000), folder=str(tmp_path))])
        events = _called(executor, [Stop(number=0, reason="too slow", rule="rank")])
        executor.close()
        [ended] = [event.result for event in events if isinstance(event, Finished)]
        assert (ended.state, ended.reason, ended.stopped_by) == (TrialState.PRUNED, "too slow", "rank")

    def test_a_saved_adapter_is_scored_on_the_test_split(self, make: MakeExecutor, tmp_path: Path) -> None:
        """Score the adapter of a finished trial."""
        executor = make(self.settings)
        result, *_ = _trained(executor, tmp_path, close=False)
        events = _called(executor, [Score(trial=result.trial, adapter=str(tmp_path / "0" / "adapter"))])
        executor.close()
        [scored] = [event for event in events if isinstance(event, Scored)]
        assert 0 <= scored.metrics["accuracy"] <= 1

    def test_free_memory_is_positive_or_unknown(self, make: MakeExecutor) -> None:
        """Read the free memory before the worker's first command."""
        executor = make(self.settings)
        free = executor.free_bytes()
        executor.close()
        assert free is None or free > 0

    def test_closing_twice_is_allowed(self, make: MakeExecutor) -> None:
        """Close a closed executor."""
        executor = make(self.settings)
        executor.close()
        executor.close()


def example_trial(number: int, max_steps: int = 4) -> Trial:
    """Return a short trial on the embedded base and data."""
    spec = TrialSpec(
        model=ModelSpec(id="demo"),
        lora=LoraSpec(r=2 + number, lora_alpha=8.0, target_modules=("q_proj",)),
        train=TrainSpec(max_steps=max_steps, learning_rate=1e-3, per_device_train_batch_size=8),
        data=DataSpec(
            train="demo:intents/train.csv[:40]",
            validation="demo:intents/validation.csv[:12]",
            test="demo:intents/test.csv[:12]",
            format="classification",
            max_length=64,
        ),
        eval=EvalSpec(rungs=4, probes=()),
    )
    return Trial(number=number, params={"lora.r": 2 + number}, spec=spec)


def _trained(executor: Executor, folder: Path, *, close: bool = True) -> list[TrialResult]:
    """Train two example trials and return their results, by number."""
    commands: list[Command] = [Start(trial=example_trial(n), folder=str(folder / str(n))) for n in range(2)]
    results: dict[int, TrialResult] = {}
    deadline_s = time.monotonic() + TIMEOUT_S
    while len(results) < 2 and time.monotonic() < deadline_s:
        events = _called(executor, commands)
        assert not any(isinstance(event, Evicted) for event in events), events
        results |= {event.number: event.result for event in events if isinstance(event, Finished)}
        commands = []
    if close:
        executor.close()
    return [results[number] for number in sorted(results)]


def _called(executor: Executor, commands: Sequence[Command]) -> list[Event]:
    return [e for e in executor.submit(commands).result(TIMEOUT_S) if not isinstance(e, Note)]
