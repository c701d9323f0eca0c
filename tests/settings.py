"""Composed configurations and frozen trials for tests that train nothing."""

from collections import Counter
from dataclasses import replace
from typing import Any

from lorasweep.adapters.methods.lora import LoraSpec
from lorasweep.adapters.methods.table import num_trainable
from lorasweep.config.compose import compose
from lorasweep.config.folders import data_dir
from lorasweep.core.result import TrialResult, TrialState
from lorasweep.core.spec import DataSpec, EvalSpec, ModelSpec, TrainSpec, TrialSpec
from lorasweep.models.shape import BaseInfo
from lorasweep.study.study import Study


def composed(*arguments: str) -> dict[str, Any]:
    """Return what a command line composes."""
    raw, _ = compose(arguments, data_dir("conf"), data_dir("sweeps"))
    assert raw is not None
    return raw


def minimal(**sections: dict[str, Any]) -> dict[str, Any]:
    """Return the smallest valid configuration, with these settings changed."""
    raw: dict[str, dict[str, Any]] = {
        "model": {"id": "demo"},
        "lora": {"r": 8, "lora_alpha": 16, "target_modules": "qv"},
        "train": {"learning_rate": 1e-3, "per_device_train_batch_size": 4},
        "data": {"train": "my.csv", "format": "classification"},
        "eval": {},
    }
    return raw | {name: raw.get(name, {}) | settings for name, settings in sections.items()}


SPEC = TrialSpec(
    model=ModelSpec(id="demo"),
    lora=LoraSpec(r=8, lora_alpha=16, target_modules=("q_proj", "v_proj")),
    train=TrainSpec(learning_rate=1e-3, per_device_train_batch_size=4),
    data=DataSpec(train="my.csv", format="classification"),
    eval=EvalSpec(),
)


def trained(**changes: Any) -> TrialSpec:
    """Return the trial with other training settings."""
    return replace(SPEC, train=replace(SPEC.train, **changes))


def adapted(**changes: Any) -> TrialSpec:
    """Return the trial with another adapter."""
    return with_adapter(SPEC, **changes)


def with_adapter(spec: TrialSpec, **changes: Any) -> TrialSpec:
    """Return a trial with other settings of its adapter."""
    return replace(spec, lora=replace(spec.lora, **changes))


def lora_of(spec: TrialSpec) -> LoraSpec:
    """Return the adapter's settings; the tests' trials train LoRA."""
    assert isinstance(spec.lora, LoraSpec)
    return spec.lora


def num_parameters(info: BaseInfo, targets: tuple[str, ...], rank: int) -> int:
    """Return the trained parameters of an adapter of this rank."""
    return num_trainable(LoraSpec(r=rank, lora_alpha=1, target_modules=targets), info.adapted(targets))


def result(number: int = 0, state: TrialState = TrialState.COMPLETE, **values: Any) -> TrialResult:
    """Return a trial's result."""
    return TrialResult(number=number, state=state, spec=SPEC, params={"lora.r": 8}, **values)


def states(study: Study) -> dict[str, int]:
    """Count a study's trials by state."""
    return dict(Counter(trial.state.name for trial in study.study.trials))
