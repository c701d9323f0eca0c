"""What results are called in MLflow: tags, parameters and metrics under the names that people search for."""

from typing import Any

from lorasweep.result import TrialResult, TrialState

STATUS = {
    TrialState.COMPLETE: "FINISHED",
    TrialState.PRUNED: "KILLED",
    TrialState.INFEASIBLE: "FAILED",
    TrialState.FAILED: "FAILED",
}


def result_tags(result: TrialResult) -> dict[str, str]:
    """Return what a trial can be searched by."""
    return {
        "state": result.state.value,
        "base": result.spec.model.id,
        "precision": result.spec.model.precision,
        "fingerprint": result.fingerprint,
        **({"reason": result.reason[:4000]} if result.reason else {}),
        **({"stopped_by": result.stopped_by} if result.stopped_by else {}),
    }


def short_name(key: str) -> str:
    """Name a parameter as people do: `r`, not `lora.r`."""
    return key.split(".")[-1]


def spec_params(result: TrialResult) -> dict[str, Any]:
    """Return a trial's settings, those that no sweep varied included."""
    spec = result.spec
    return {
        "r": spec.lora.r,
        "lora_alpha": spec.lora.lora_alpha,
        "lora_dropout": spec.lora.lora_dropout,
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


def final_metrics(result: TrialResult) -> dict[str, float]:
    """Return a trial's scores, its objective once more under that name, and what it cost."""
    cost = result.cost
    values = {
        **result.metrics,
        "wall_s": cost.wall_s,
        "its_per_s": cost.its_per_s,
        "tokens_per_s": cost.tokens_per_s,
        "peak_memory_gib": cost.peak_bytes / 2**30,
        "predicted_memory_gib": cost.predicted_bytes / 2**30,
        **({} if cost.memory_error is None else {"memory_error": cost.memory_error}),
        "memory_share_gib": cost.share_bytes / 2**30,
        "memory_alone_gib": cost.alone_bytes / 2**30,
        "trainable_parameters": float(cost.trainable_parameters),
        "trainable_percent": cost.trainable_percent,
        "adapter_mb": cost.adapter_bytes / 1e6,
    }
    return values if result.objective is None else {"objective": result.objective, **values}
