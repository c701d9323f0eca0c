"""How a trial ended: its state, its scores and what it cost."""

import time
from dataclasses import dataclass, field
from enum import StrEnum

from lorasweep.core.spec import TrialSpec
from lorasweep.core.trial import Params, Trial

NOT_FINITE = "loss is not finite"  # the reason of a trial that diverged begins with this


class TrialState(StrEnum):
    """How a trial ended. Only COMPLETE and PRUNED were measured; INFEASIBLE did not fit in memory."""

    COMPLETE = "complete"
    PRUNED = "pruned"
    INFEASIBLE = "infeasible"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a trial used. Times in seconds, memory in bytes; `shared_by` trials had the process's peak together.

    `predicted_bytes` is the prediction of that peak, `share_bytes` this trial's part of it beyond the base, and
    `alone_bytes` what it would need alone, predicted and corrected by what was measured.
    """

    num_steps: int = 0
    num_planned_steps: int = 0
    wall_s: float = 0.0
    train_s: float = 0.0
    eval_s: float = 0.0  # of the last evaluation, neighbours included
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
        """Return how far the prediction was above (below: negative) the measured peak, as a share of it."""
        return self.predicted_bytes / self.peak_bytes - 1 if self.predicted_bytes and self.peak_bytes else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A general ability before and after training; `drop` is positive when the adapted model is worse."""

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
    """Metrics at a step, measured at `time_s` since 1970; a tracker drops a point that it has with the same time."""

    step: int
    metrics: dict[str, float]
    time_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A prompt, what was wanted, and what the adapted model wrote."""

    prompt: str
    reference: str
    output: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseScore:
    """The base without adapter on a trial's validation examples: `metrics`, and `scores` as in `TrialResult`.

    `chance` and `majority` are the scores of guessing among the options and of always answering the most frequent
    training label, by metric; empty where rows have no options, or none that they share.
    """

    metrics: dict[str, float]
    scores: tuple[float, ...]
    num_tokens: tuple[int, ...] = ()
    chance: dict[str, float] = field(default_factory=dict)
    majority: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialResult:
    """The outcome of a trial; `scores` holds the objective per validation example, for paired comparisons.

    `examples` is a digest of those examples, in order; empty in results of versions that did not keep it.
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
    num_tokens: tuple[int, ...] = ()  # per example, where the objective is a mean over tokens
    probes: tuple[Probe, ...] = ()
    samples: tuple[Sample, ...] = ()
    cost: Cost = Cost()
    provenance: dict[str, str] = field(default_factory=dict)
    started_s: float = 0.0
    ended_s: float = 0.0
    same_as: int | None = None
    examples: str = ""
    base: BaseScore | None = None  # None where the trial did not end, or was written before it was kept

    @classmethod
    def of(cls, trial: Trial, state: TrialState, reason: str = "") -> "TrialResult":
        """Return the result of a trial that ends now; `replace` adds what was measured."""
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
        """Return the trial that this is the result of."""
        return Trial(number=self.number, params=self.params, spec=self.spec)

    @property
    def fingerprint(self) -> str:
        """Return the name of the trial's settings: equal settings have equal fingerprints."""
        return self.spec.fingerprint
