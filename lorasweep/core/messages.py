"""Messages: commands from driver to worker, events from worker to driver, and the events of a sweep."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lorasweep.core.result import Point, TrialResult
from lorasweep.core.spec import ModelSpec
from lorasweep.core.trial import Trial

CHECKPOINT = "checkpoint.safetensors"  # in the folder of an unfinished trial


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """Settings of a worker."""

    device: str
    num_slots: int
    num_threads: int = 0
    visible: str = ""  # CUDA_VISIBLE_DEVICES of the worker's process
    base: ModelSpec | None = None  # to load at once; on a GPU, only a trial may take memory
    slice_s: float = 1.0  # `advance` returns within this time, so that Stop and Pause get through


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Command: train this trial, from the checkpoint in its folder if there is one.

    Events carry the trial's attempt; the driver ignores events from earlier attempts.
    """

    trial: Trial
    folder: str  # the trial's folder, for its checkpoint and adapter

    @property
    def number(self) -> int:
        return self.trial.number


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Command: end this trial at its rung. `reason` is shown to the user; `rule` is the pruner's rule."""

    number: int
    reason: str
    rule: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Command: score a trial's saved adapter on the test split."""

    trial: Trial
    adapter: str  # folder of the adapter


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Command: save a checkpoint of every live trial and free its slot."""


Command = Start | Stop | Score | Pause


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Event: the progress of a live trial, for the display."""

    number: int
    step: int
    num_steps: int
    loss: float
    its_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """Event: a trial reports its objective at a rung and continues; a `Stop` may follow."""

    number: int
    rung: int
    value: float  # the objective itself
    point: Point
    attempt: int = 0
    eval_s: float = 0.0  # seconds of the evaluation, for all trials evaluated together


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """Event: a trial ended, in any state."""

    number: int
    result: TrialResult
    attempt: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Evicted:
    """Event: a trial did not fit in memory with the others. It has a checkpoint and lost its slot."""

    number: int
    reason: str
    attempt: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """Event: test-split metrics of a trial."""

    number: int
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Event: a line for the user, such as rows that were truncated or a setting that was ignored."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskFull:
    """Event: a checkpoint or adapter could not be written. The worker retries at the next call of `advance`."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Event: peak memory of the warm-up, one pass over this trial's longest rows in a new bank."""

    number: int
    peak_bytes: int


Event = Progress | Rung | Finished | Evicted | Scored | Note | Measured | DiskFull


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepStarted:
    """Sweep event: the sweep has `num_trials` trials in total; `results` are those of earlier launches."""

    num_trials: int
    results: Sequence[TrialResult]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialStarted:
    """Sweep event: a trial got a slot."""

    trial: Trial


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Sweep event: the leaderboard is written. `note` is its markdown, `adapter` the folder of the winner's adapter."""

    note: str
    files: Sequence[Path]
    metrics: Mapping[str, float]
    adapter: Path | None
    is_finished: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepEnded:
    """Sweep event: no trial is running any more."""


SweepEvent = SweepStarted | TrialStarted | Progress | Rung | Finished | Note | Summary | SweepEnded


class Listener(Protocol):
    """Handles the events of a sweep, such as a display or a tracker; ignores events that it does not need."""

    def handle(self, event: SweepEvent) -> None: ...
