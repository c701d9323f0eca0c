"""The state of a trial while it trains."""

import math
import time
from dataclasses import dataclass, field

from lorasweep.adapters.train_state import TrainState, mean_loss
from lorasweep.core.messages import Progress, Rung
from lorasweep.core.result import Point
from lorasweep.core.spec import TrialSpec
from lorasweep.core.trial import Trial
from lorasweep.memory import GIB


@dataclass(eq=False, slots=True)
class LiveTrial:
    """A trial in a slot: its training state and its reports so far. `folder` holds its checkpoint and adapter."""

    trial: Trial
    folder: str
    train_state: TrainState
    started_s: float
    began_s: float = field(default_factory=time.monotonic)
    before_s: float = 0.0  # wall time of earlier launches
    saved_s: float = field(default_factory=time.monotonic)
    rung: int = 0
    eval_s: float = 0.0  # seconds of the last evaluation, for all trials evaluated together
    shared_by: int = 1
    metrics: dict[str, float] = field(default_factory=dict)
    history: list[Point] = field(default_factory=list)

    @property
    def number(self) -> int:
        return self.trial.number

    @property
    def spec(self) -> TrialSpec:
        return self.trial.spec

    @property
    def wall_s(self) -> float:
        return self.before_s + time.monotonic() - self.began_s

    @property
    def is_due(self) -> bool:
        """Return whether the trial has reached a rung that it has not reported yet."""
        return self.train_state.rung > self.rung

    @property
    def memory_order(self) -> int:
        """Return a sort key: the memory that the trial adds to a bank."""
        rows = self.spec.train.per_device_train_batch_size
        return rows * 10**12 + self.train_state.slot.num_trainable

    @property
    def has_diverged(self) -> bool:
        """Return whether the last training loss is not finite."""
        losses = self.train_state.losses
        return bool(losses) and not math.isfinite(losses[-1][1])

    def progress(self) -> Progress:
        """Return the event that reports steps, loss and speed."""
        x = self.train_state
        pace = x.step / x.train_s if x.train_s else 0.0
        return Progress(number=self.number, step=x.step, num_steps=x.num_steps, loss=mean_loss(x), its_per_s=pace)

    def rung_event(self) -> Rung:
        """Return the event that reports the last rung."""
        value = self.metrics[self.spec.eval.objective]
        return Rung(
            number=self.number,
            rung=self.rung,
            value=value,
            point=self.history[-1],
            attempt=self.trial.attempt,
            eval_s=self.eval_s,
        )

    def record(self, metrics: dict[str, float], peak_bytes: int) -> None:
        """Store the metrics that were measured at the current rung."""
        x = self.train_state
        speed = {
            "train/loss": mean_loss(x),
            "train/first_loss": x.losses[0][1],
            "train/learning_rate": x.losses[-1][2],
            "perf/its_per_s": x.step / x.train_s,
            "perf/tokens_per_s": x.num_tokens / x.train_s,
            "perf/peak_memory_gib": peak_bytes / GIB,
        }
        self.rung = x.rung
        known = self.spec.eval.all_metrics  # other metrics of a rung are for the pruner only
        self.metrics = {name: value for name, value in metrics.items() if name in known or self.train_state.is_done}
        named = {f"eval/{name}": value for name, value in metrics.items()}
        self.history.append(Point(step=x.step, metrics={**named, **speed}, time_s=time.time()))
