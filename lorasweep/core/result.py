"""The result of a trial: its state, its scores and its cost."""

import time
from dataclasses import dataclass, field
from enum import StrEnum

from lorasweep.core.spec import TrialSpec
from lorasweep.core.trial import Params, Trial

NOT_FINITE = "loss is not finite"  # start of the reason of a diverged trial


class TrialState(StrEnum):
    """How a trial ended; INFEASIBLE: it did not fit in memory.

    Only COMPLETE trials have scores per example; the others keep their last measurements.
    """

    COMPLETE = "complete"
    PRUNED = "pruned"
    INFEASIBLE = "infeasible"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Time (seconds), memory (bytes) and size of a trial. `peak_bytes` is shared by the `shared_by` trials of a worker.

    `predicted_bytes` is the prediction of that peak, `share_bytes` this trial's part of it without the base, and
    `alone_bytes` the corrected prediction for this trial alone.
    """

    num_steps: int = 0
    num_planned_steps: int = 0
    wall_s: float = 0.0
    train_s: float = 0.0
    eval_s: float = 0.0  # of the last evaluation, of all trials evaluated together
    its_per_s: float = 0.0
    tokens_per_s: float = 0.0
    predicted_bytes: int = 0
    peak_bytes: int = 0
    share_bytes: int = 0
    alone_bytes: int = 0
    shared_by: int = 1
    trainable_parameters: int = 0
    trainable_percent: float = 0.0
    adapter_bytes: int = 0

    @property
    def memory_error(self) -> float | None:
        """Return the error of the memory prediction relative to the measured peak; positive if predicted too high."""
        return self.predicted_bytes / self.peak_bytes - 1 if self.predicted_bytes and self.peak_bytes else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A probe's score before and after training; `drop` is positive if the adapted model is worse."""

    name: str
    metric: str
    before: float
    after: float
    drop: float
    relative_drop: float
    low: float
    high: float
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Metrics at a step. `time_s` is in seconds since 1970; a tracker drops a second point with the same time."""

    step: int
    metrics: dict[str, float]
    time_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A prompt, its reference answer, and the answer of the adapted model."""

    prompt: str
    reference: str
    output: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseScore:
    """The base without adapter on a trial's validation examples: `metrics`, and `scores` as in `TrialResult`.

    `chance` and `majority` hold, by metric, the scores of guessing an option at random and of always answering the most
    frequent training label; empty if the rows have no options, or no common ones.
    """

    metrics: dict[str, float]
    scores: tuple[float, ...]
    num_tokens: tuple[int, ...] = ()
    chance: dict[str, float] = field(default_factory=dict)
    majority: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialResult:
    """The result of a trial; `scores` holds the objective per validation example, for paired comparisons.

    `examples` is a digest of those examples, in order; empty in results of versions that did not store it.
    """

    number: int
    state: TrialState
    spec: TrialSpec
    params: Params
    reason: str = ""
    stopped_by: str = ""  # the pruner's rule that stopped it
    objective: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    history: tuple[Point, ...] = ()
    scores: tuple[float, ...] = ()
    num_tokens: tuple[int, ...] = ()  # per example, if the objective is a mean over tokens
    probes: tuple[Probe, ...] = ()
    samples: tuple[Sample, ...] = ()
    cost: Cost = Cost()
    provenance: dict[str, str] = field(default_factory=dict)
    started_s: float = 0.0
    ended_s: float = 0.0
    same_as: int | None = None
    examples: str = ""
    base: BaseScore | None = None  # None if the trial did not finish, or in results of older versions

    @classmethod
    def of(cls, trial: Trial, state: TrialState, reason: str = "") -> "TrialResult":
        """Return the result of a trial that ends now, without measurements."""
        return cls(
            number=trial.number,
            state=state,
            spec=trial.spec,
            params=dict(trial.params),
            reason=reason,
            ended_s=time.time(),
        )

    @property
    def trial(self) -> Trial:
        """Return the trial of this result."""
        return Trial(number=self.number, params=self.params, spec=self.spec)

    @property
    def fingerprint(self) -> str:
        """Return the fingerprint of the trial's settings: equal settings have equal fingerprints."""
        return self.spec.fingerprint
