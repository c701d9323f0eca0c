"""The settings of a sweep as frozen dataclasses. A command line starts from the defaults in `conf/`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lorasweep.core.spec import AdapterSpec, DataSpec, EvalSpec, ModelSpec, TrainSpec

Sampler = Literal["grid", "random", "tpe", "gp", "cmaes", "nsga2", "nsga3", "qmc"]
Pruner = Literal["none", "median", "percentile", "successive_halving", "hyperband", "patient", "rules"]
Tracker = Literal["mlflow", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepSettings:
    """The question of a sweep, and its search space: a nested mapping of Hydra sweep expressions.

    If `name` is empty, the run is named after its data and the settings that it varies.
    """

    name: str = ""
    question: str = ""
    space: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySettings:
    """Settings of the Optuna study. A grid runs completely, and so does a space of at most `trials` points."""

    sampler: Sampler = "tpe"
    pruner: Pruner = "none"
    reduction_factor: int = 2
    trials: int = 20
    timeout_min: float | None = None
    seed: int = 0
    slots: int | None = None
    keep_adapters: int = 1
    memory_gib: float | None = None
    hang_min: float = 10.0
    halt_after: int = 5
    retry_failed: bool = False
    device_wait_min: float = 30.0  # how long to wait until other processes free a full GPU


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackingSettings:
    """Settings of the tracker; a null `uri` means `mlflow.db` in the working directory."""

    backend: Tracker = "mlflow"
    uri: str | None = None
    experiment: str = "lorasweep"


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepConfig:
    """The whole configuration. Its sections are the groups of `conf/`."""

    model: ModelSpec
    lora: AdapterSpec  # with target modules as they were written
    train: TrainSpec
    data: DataSpec
    eval: EvalSpec
    sweep: SweepSettings = SweepSettings()
    study: StudySettings = StudySettings()
    tracking: TrackingSettings = TrackingSettings()
    devices: str = "auto"
    workers: int | None = None  # processes on the CPU; null: chosen by the plan
    threads: int | None = None  # CPU threads per worker; null: the available cores, divided among the workers
    executor: str = "auto"  # or a name in `executors.table.EXECUTORS`
    output_dir: str = "runs"
