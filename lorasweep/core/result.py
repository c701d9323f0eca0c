"""What driver and worker say to each other, and what a trial leaves behind."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from lorasweep.core.spec import DataSpec, EvalSpec, LoraSpec, ModelSpec, ProbeSpec, TrainSpec, TrialSpec


class TrialState(StrEnum):
    """How a trial ended. Only COMPLETE and PRUNED were measured; INFEASIBLE did not fit in memory."""

    COMPLETE = "complete"
    PRUNED = "pruned"
    INFEASIBLE = "infeasible"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """What a worker is made of."""

    device: str
    num_slots: int
    num_threads: int = 0
    visible: str = ""  # what CUDA_VISIBLE_DEVICES says to a worker in a process of its own
    slice_s: float = 1.0  # a worker speaks at least this often, so that the driver can stop it


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Command: train this trial, from its checkpoint where its folder holds one."""

    number: int
    spec: TrialSpec
    folder: str  # the adapter is saved below it
    attempt: int = 0  # what an earlier attempt still says is not listened to


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Command: end this trial at its rung; `reason` says why, `rule` names the rule of the pruner."""

    number: int
    reason: str
    rule: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Command: score a trial's adapter on the test split; nothing is trained."""

    number: int
    spec: TrialSpec
    adapter: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Command: write a checkpoint of every live trial and let go of it."""


Command = Start | Stop | Score | Pause


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

    `examples` names those examples, in order. It is empty where a result was written before it was kept.
    """

    number: int
    state: TrialState
    spec: TrialSpec
    params: dict[str, Any]
    fingerprint: str
    reason: str = ""
    stopped_by: str = ""  # the rule by which a pruner gave it up
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Event: where a live trial stands, for the display."""

    number: int
    step: int
    num_steps: int
    loss: float
    its_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """Event: a trial reports its objective and waits for nothing; a `Stop` may follow."""

    number: int
    rung: int
    value: float  # the objective itself
    point: Point
    attempt: int = 0
    eval_s: float = 0.0  # seconds that the evaluation took, neighbours that were evaluated with it included


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """Event: a trial ended, well or not."""

    number: int
    result: TrialResult
    attempt: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Evicted:
    """Event: a trial did not fit beside its neighbours and has to go on with fewer of them."""

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
    """Event: something the user should read, such as rows that were truncated or a setting that was ignored."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskFull:
    """Event: something could not be written. Nothing is lost; the worker tries again when it is next asked to go on."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Event: the peak of one pass over this trial's longest rows, when its bank was new."""

    number: int
    peak_bytes: int


Event = Progress | Rung | Finished | Evicted | Scored | Note | Measured | DiskFull

CHECKPOINT = "checkpoint.safetensors"  # of a trial in flight, in its folder
NOT_FINITE = "loss is not finite"  # how the reason of a trial that diverged begins


def result_from_json(raw: dict[str, Any]) -> TrialResult:
    """Rebuild a result from `dataclasses.asdict` that went through JSON."""
    raw = dict(raw)
    raw["spec"] = spec_from_json(raw["spec"])
    raw["state"] = TrialState(raw["state"])
    raw["history"] = tuple(Point(**p) for p in raw["history"])
    raw["probes"] = tuple(Probe(**p) for p in raw["probes"])
    raw["samples"] = tuple(Sample(**s) for s in raw["samples"])
    raw["scores"] = tuple(raw["scores"])
    raw["num_tokens"] = tuple(raw.get("num_tokens", ()))
    raw["cost"] = Cost(**raw["cost"])
    raw["base"] = _base_from_json(raw.get("base"))
    return TrialResult(**raw)


def _base_from_json(raw: dict[str, Any] | None) -> BaseScore | None:
    if raw is None:
        return None
    return BaseScore(**{**raw, "scores": tuple(raw["scores"]), "num_tokens": tuple(raw["num_tokens"])})


def spec_from_json(raw: dict[str, Any]) -> TrialSpec:
    """Rebuild a spec from `dataclasses.asdict` that went through JSON."""
    lora = {**raw["lora"], "target_modules": tuple(raw["lora"]["target_modules"])}
    probes = tuple(ProbeSpec(**p) for p in raw["eval"]["probes"])
    evaluation = {**raw["eval"], "metrics": tuple(raw["eval"]["metrics"]), "probes": probes}
    return TrialSpec(
        model=ModelSpec(**raw["model"]),
        lora=LoraSpec(**lora),
        train=TrainSpec(**raw["train"]),
        data=DataSpec(**{**raw["data"], "templates": tuple(raw["data"].get("templates", ()))}),
        eval=EvalSpec(**evaluation),
    )
