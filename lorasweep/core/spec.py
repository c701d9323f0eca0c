"""The specification of a trial: frozen values, and the fingerprint that identifies them.

Two trials with the same fingerprint train the same adapter, so the second is never trained. Settings have the names
that they have in PEFT's `LoraConfig` and transformers' `TrainingArguments`.
"""

import hashlib
import json
import math
from collections.abc import Callable, Container, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, Literal

from evaluation.metrics import LOSS

Precision = Literal["none", "int8", "nf4", "nf4_double", "fp4"]
DType = Literal["fp32", "bf16", "fp16"]
Optimizer = Literal["adamw", "paged_adamw_8bit"]
Scheduler = Literal["linear", "cosine", "constant", "constant_with_warmup", "inverse_sqrt", "polynomial"]

DEMO_FILES = "demo:"  # prefix of the path of a file that ships with the package
DIGEST_CHARS = 16  # 64 bits: a collision is practically impossible


def digest(value: object) -> str:
    """Return a short hash of a JSON-serializable value, independent of key order."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_CHARS]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """The frozen base: a hub id, a local folder or `demo`."""

    id: str
    revision: str | None = None
    dtype: DType = "fp32"
    precision: Precision = "none"
    trust_remote_code: bool = False


Rule = tuple[Callable[[Any], bool], str]  # whether a value is allowed, and what to say if it is not


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSpec:
    """The settings that every adapter method has; those of a method inherit from it.

    `method` is a name in `adapters.methods.table.METHODS`. `target_modules` holds names of the base's modules; before
    `resolve_targets` it may hold a preset's name instead.
    """

    ranges: ClassVar[Mapping[str, Rule]] = {}  # the allowed values of the method's own settings
    not_in_fingerprint: ClassVar[Mapping[str, str]] = {}  # settings that a fingerprint leaves out, with the reason

    method: str
    target_modules: tuple[str, ...]

    @classmethod
    def expanded(cls, raw: Mapping[str, Any]) -> dict[str, Any]:
        """Return settings with expressions such as `2r` replaced by their values; wrong ones stay as they are."""
        return dict(raw)

    @property
    def scale(self) -> float | None:
        """The factor of the adapter's output, None if the method has none."""
        return None

    def identity(self) -> dict[str, Any]:
        """Return what determines the trained adapter, apart from the target modules."""
        return covered(self, {*self.not_in_fingerprint, "target_modules"})


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSpec:
    """Training settings, with the names of transformers' `TrainingArguments`."""

    learning_rate: float
    per_device_train_batch_size: int
    gradient_accumulation_steps: int = 1
    num_train_epochs: float = 1.0
    max_steps: int = -1
    optim: Optimizer = "adamw"
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    lr_scheduler_type: Scheduler = "linear"
    warmup_steps: float = 0.0
    activation_checkpointing: bool = False
    seed: int = 0

    def num_steps(self, num_examples: int) -> int:
        """Return the number of optimizer steps; a positive `max_steps` overrides the epochs, as in transformers."""
        if self.max_steps > 0:
            return self.max_steps
        return max(1, math.ceil(self.steps_per_epoch(num_examples) * self.num_train_epochs))

    def steps_per_epoch(self, num_examples: int) -> int:
        batches = math.ceil(num_examples / self.per_device_train_batch_size)
        return max(1, math.ceil(batches / self.gradient_accumulation_steps))

    def num_warmup_steps(self, num_steps: int) -> int:
        """Return the number of warm-up steps; a value below 1 is a share of all steps, as in transformers."""
        return math.ceil(self.warmup_steps * num_steps) if self.warmup_steps < 1 else int(self.warmup_steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSpec:
    """The files of examples, and how examples become tokens.

    `eval_max_length` and `templates` are the same for all trials of a sweep, so that all are scored on the same rows,
    truncated to the same length: the largest `max_length` and every `template` of the sweep.
    """

    train: str
    format: str  # a name in `data.formats.FORMATS`
    validation: str | None = None
    test: str | None = None
    validation_share: float = 0.1
    max_length: int = 512
    template: str | None = None
    text_column: str | None = None
    label_column: str | None = None
    limit: int | None = None
    split_seed: int = 0
    eval_max_length: int | None = None
    templates: tuple[str, ...] = ()

    @property
    def scored_length(self) -> int:
        """Return the maximum number of tokens of a validation or test row."""
        return self.eval_max_length or self.max_length


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeSpec:
    """A probe: an evaluation set that measures forgetting. `end_token` as in `EvalSpec`."""

    name: str
    path: str
    format: str = "prompt_completion"
    metric: str = "accuracy"
    limit: int | None = None
    max_length: int = 256
    end_token: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalSpec:
    """The metrics and the examples of an evaluation; the study ranks trials by the objective.

    `end_token`: whether an answer option is scored with the end token that follows it.
    `rung_start`: no trial is pruned before this share of its steps, the longest warm-up of the study.
    """

    objective: str = "accuracy"
    metrics: tuple[str, ...] = ()
    limit: int | None = None
    batch_rows: int = 64
    max_new_tokens: int = 32
    rungs: int = 3
    rung_factor: float = 1.0
    rung_limit: int | None = None
    rung_start: float = 0.0
    num_samples: int = 4
    end_token: bool = True
    probes: tuple[ProbeSpec, ...] = ()

    @property
    def all_metrics(self) -> tuple[str, ...]:
        """The objective first, then the other metrics; the loss is always included."""
        return tuple(dict.fromkeys((self.objective, *self.metrics, LOSS)))


Section = ModelSpec | AdapterSpec | TrainSpec | DataSpec | EvalSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialSpec:
    """The settings of one trial: everything that determines its result."""

    model: ModelSpec
    lora: AdapterSpec
    train: TrainSpec
    data: DataSpec
    eval: EvalSpec

    @property
    def base_key(self) -> str:
        """Return a key for the frozen base; trials with equal keys can share a bank."""
        return digest(asdict(self.model))

    @property
    def data_key(self) -> str:
        """Return a key for the tokenised data: base, files and data settings."""
        return digest([*covered(self.model, NOT_IN_DATA).values(), asdict(self.data)])

    @property
    def fingerprint(self) -> str:
        """Return a hash of all settings that affect the result. The scale counts, not how it was written."""
        spec = canonical(self)
        found = {f.name: covered(getattr(spec, f.name), NOT_IN_FINGERPRINT, f"{f.name}.") for f in fields(spec)}
        # The layout of these values must not change: stored results are found by their fingerprint.
        lora = [spec.lora.identity(), sorted(spec.lora.target_modules)]
        return digest([x for name, part in found.items() for x in (lora if name == "lora" else [part])])

    @property
    def key_without_seed(self) -> str:
        """Return the fingerprint of the settings without the training seed."""
        return replace(self, train=replace(self.train, seed=0)).fingerprint


ON_THE_WAY = "it decides when a trial reports, and on which examples, but not its result"

# Fields that a key leaves out, each with the reason; methods list those of adapters. All other fields are covered.
NOT_IN_FINGERPRINT = {
    "train.activation_checkpointing": "recomputed activations are the same numbers",
    "eval.rungs": ON_THE_WAY,
    "eval.rung_factor": ON_THE_WAY,
    "eval.rung_limit": ON_THE_WAY,
    "eval.rung_start": ON_THE_WAY,
}
NOT_IN_DATA = {
    "dtype": "only weights have it",
    "precision": "only weights have it",
    "trust_remote_code": "no sweep varies it",
}


def covered(section: Section, left_out: Container[str], prefix: str = "") -> dict[str, Any]:
    """Return the fields of a section except those in `left_out`, whose names start with `prefix`."""
    return {name: value for name, value in asdict(section).items() if f"{prefix}{name}" not in left_out}


def canonical(spec: TrialSpec) -> TrialSpec:
    """Return the spec with every setting that has no effect set to its neutral value."""
    train = spec.train
    for knob in unused_settings(spec):
        train = replace(train, **{knob.removeprefix("train."): NEUTRAL[knob]})  # type: ignore[arg-type]
    return replace(spec, train=train)


NEUTRAL: dict[str, float | int] = {"train.warmup_steps": 0.0, "train.num_train_epochs": 0.0}


def unused_settings(spec: TrialSpec) -> tuple[str, ...]:
    """Return the settings without effect: warm-up under a constant schedule, epochs under `max_steps`."""
    idle = []
    if spec.train.lr_scheduler_type == "constant":
        idle.append("train.warmup_steps")
    if spec.train.max_steps > 0:
        idle.append("train.num_train_epochs")
    return tuple(idle)


def has_effect(spec: TrialSpec, key: str) -> bool:
    """Return whether a setting has an effect on this trial; methods have different settings."""
    section, _, name = key.partition(".")
    return key not in unused_settings(spec) and (section != "lora" or hasattr(spec.lora, name))
