"""The tags, parameters and metrics of results in MLflow."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from lorasweep.core.result import Point, TrialResult, TrialState
from lorasweep.core.sizes import GIB
from lorasweep.core.spec import TrialSpec
from lorasweep.core.trial import Trial, short_name

# MLflow's page shows KILLED like FAILED, and a pruned trial did not fail: the tag `state` distinguishes it.
STATUS = {
    TrialState.COMPLETE: "FINISHED",
    TrialState.PRUNED: "FINISHED",
    TrialState.INFEASIBLE: "FAILED",
    TrialState.FAILED: "FAILED",
}


def result_tags(result: TrialResult) -> dict[str, str]:
    """Return the tags of a trial, for searches."""
    return {
        "state": result.state.value,
        "base": result.spec.model.id,
        "precision": result.spec.model.precision,
        "fingerprint": result.fingerprint,
        **({"reason": result.reason[:4000]} if result.reason else {}),
        **({"stopped_by": result.stopped_by} if result.stopped_by else {}),
    }


def space_params(swept: Mapping[str, str]) -> dict[str, str]:
    """Return the search space as parameters of the parent run: `swept/r` is `4, 8, 16`."""
    return {f"swept/{short_name(key)}": values for key, values in swept.items()}


def trial_params(trial: Trial) -> dict[str, Any]:
    """Return a trial's settings, including those that no sweep varied.

    A number that was swept as an expression is logged as a number: `lora_alpha` is 16, `swept/lora_alpha` is `2r`.
    """
    settings, swept = _settings(trial.spec), {short_name(key): value for key, value in trial.effective.items()}
    numbers = {k: f"{settings[k]:g}" for k, v in swept.items() if isinstance(v, str) and _is_number(settings.get(k))}
    return {**settings, **swept, **numbers, **{f"swept/{name}": swept[name] for name in numbers}}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _settings(spec: TrialSpec) -> dict[str, Any]:
    return {
        **asdict(spec.lora),
        "target_modules": ",".join(spec.lora.target_modules),
        "learning_rate": spec.train.learning_rate,
        "batch_size": spec.train.per_device_train_batch_size * spec.train.gradient_accumulation_steps,
        "lr_scheduler_type": spec.train.lr_scheduler_type,
        "weight_decay": spec.train.weight_decay,
        "optim": spec.train.optim,
        "precision": spec.model.precision,
        "dtype": spec.model.dtype,
        "seed": spec.train.seed,
    }


def points(result: TrialResult) -> list[Point]:
    """Return all measurements of a trial: its history, and a last point with those that the history lacks."""
    history = [named(point) for point in result.history]
    known = {name for point in history for name in point.metrics}
    rest = {name: value for name, value in _final_metrics(result).items() if name not in known}
    step = history[-1].step if history else 0
    return [*history, Point(step=step, metrics=rest, time_s=result.ended_s)]


def named(point: Point) -> Point:
    """Return a point with plain metric names, so that a score has a single curve."""
    return replace(
        point, metrics={name.removeprefix("eval/").removeprefix("perf/"): v for name, v in point.metrics.items()}
    )


def _final_metrics(result: TrialResult) -> dict[str, float]:
    """Return a trial's scores and costs."""
    cost = result.cost
    values = {
        **result.metrics,
        "wall_s": cost.wall_s,
        "its_per_s": cost.its_per_s,
        "tokens_per_s": cost.tokens_per_s,
        "peak_memory_gib": cost.peak_bytes / GIB,
        "predicted_memory_gib": cost.predicted_bytes / GIB,
        **({} if cost.memory_error is None else {"memory_error": cost.memory_error}),
        "memory_share_gib": cost.share_bytes / GIB,
        "memory_alone_gib": cost.alone_bytes / GIB,
        "trainable_parameters": float(cost.trainable_parameters),
        "trainable_percent": cost.trainable_percent,
        "adapter_mb": cost.adapter_bytes / 1e6,
    }
    return values if result.objective is None else {result.spec.eval.objective: result.objective, **values}
