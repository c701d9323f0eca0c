"""Allowed ranges of settings, and settings that contradict each other.

Rules are rows of a table, so that all are checked and reported together.
"""

import re
from collections.abc import Collection
from typing import Any

from evaluation.metrics import METRICS
from lorasweep.adapters.methods.table import METHODS
from lorasweep.core.spec import DEMO_FILES, Rule
from lorasweep.data.formats import FORMATS
from lorasweep.executors.table import EXECUTORS

WITH_OPTIONS = ("classification", "multiple_choice", "prompt_completion", "hellaswag", "arc", "winogrande")
EXECUTOR_NAMES = ("auto", *EXECUTORS)
PROBE_METRICS = tuple(name for name, metric in METRICS.items() if metric.can_measure_forgetting)

# Settings that hold names of a closed list, so that the nearest name can be suggested.
CLOSED: dict[str, Collection[str]] = {
    "lora.method": METHODS,
    "data.format": FORMATS,
    "eval.objective": METRICS,
    "eval.metrics": METRICS,
    "eval.probes.*.format": FORMATS,
    "eval.probes.*.metric": PROBE_METRICS,
    "executor": EXECUTOR_NAMES,
}


def one_of(key: str) -> Rule:
    """Return the rule that a setting is a name of its closed list."""
    names = CLOSED[key]
    return lambda v: v in names, f"is not one of {', '.join(names)}"


RANGES: dict[str, Rule] = {
    **{key: one_of(key) for key in CLOSED if key != "eval.metrics"},
    "lora.target_modules": (lambda v: bool(v) and all(v), "must name at least one module or a preset"),
    "train.learning_rate": (lambda v: 0 < v < 10, "must be above 0 (and below 10)"),
    "train.per_device_train_batch_size": (lambda v: v >= 1, "must be at least 1"),
    "train.gradient_accumulation_steps": (lambda v: v >= 1, "must be at least 1"),
    "train.num_train_epochs": (lambda v: v > 0, "must be above 0"),
    "train.max_steps": (lambda v: v == -1 or v >= 1, "must be at least 1, or -1 to train whole epochs"),
    "train.weight_decay": (lambda v: v >= 0, "must not be negative"),
    "train.adam_beta1": (lambda v: 0 <= v < 1, "must be in [0, 1)"),
    "train.adam_beta2": (lambda v: 0 <= v < 1, "must be in [0, 1)"),
    "train.adam_epsilon": (lambda v: v > 0, "must be above 0"),
    "train.max_grad_norm": (lambda v: v >= 0, "must not be negative; 0 switches clipping off"),
    "train.warmup_steps": (lambda v: v >= 0, "must not be negative; below 1 it is a share of all steps"),
    "data.validation_share": (lambda v: 0 < v < 1, "must be between 0 and 1"),
    "data.max_length": (lambda v: v >= 2, "must be at least 2 tokens"),
    "data.eval_max_length": (lambda v: v is None or v >= 2, "must be at least 2 tokens, or null for data.max_length"),
    "data.limit": (lambda v: v is None or v >= 2, "must be at least 2 examples"),
    "eval.metrics": (lambda v: set(v) <= set(METRICS), f"may only hold {', '.join(METRICS)}"),
    "eval.limit": (lambda v: v is None or v >= 1, "must be at least 1 example"),
    "eval.batch_rows": (lambda v: v >= 1, "must be at least 1"),
    "eval.max_new_tokens": (lambda v: v >= 1, "must be at least 1"),
    "eval.rungs": (lambda v: v >= 1, "must be at least 1"),
    "eval.rung_factor": (lambda v: v >= 1, "must be at least 1, for evenly spaced rungs; 2 doubles each distance"),
    "eval.rung_limit": (lambda v: v is None or v >= 1, "must be at least 1 example, or null for all of them"),
    "eval.rung_start": (lambda v: 0 <= v <= 1, "must be a share of a trial's steps, 0 to 1"),
    "eval.num_samples": (lambda v: v >= 0, "must not be negative"),
    "study.reduction_factor": (lambda v: v >= 2, "must be at least 2: one in so many trials continues after a rung"),
    "study.trials": (lambda v: v >= 1, "must be at least 1"),
    "study.timeout_min": (lambda v: v is None or v > 0, "must be above 0 minutes"),
    "study.slots": (lambda v: v is None or v >= 1, "must be at least 1"),
    "study.keep_adapters": (lambda v: v >= 1, "must be at least 1: the winner's adapter is always kept"),
    "study.memory_gib": (lambda v: v is None or v > 0, "must be above 0 GiB"),
    "study.hang_min": (lambda v: v > 0, "must be above 0 minutes"),
    "study.halt_after": (lambda v: v >= 1, "must be at least 1"),
    "study.device_wait_min": (lambda v: v >= 0, "must not be negative; 0 stops using a full GPU at once"),
    "workers": (lambda v: v is None or v >= 1, "must be at least 1"),
    "threads": (lambda v: v is None or v >= 1, "must be at least 1"),
    "sweep.name": (lambda v: re.fullmatch(r"[A-Za-z0-9][\w.-]{0,99}", v) is not None and ".." not in v,
     "must be a plain name of letters, digits, '_', '-' and '.'"),
}  # fmt: skip


def rule_of(key: str) -> Rule | None:
    """Return the rule for the values of a setting, None if any value is allowed."""
    section, _, name = key.partition(".")
    own = (method.settings.ranges for method in METHODS.values() if section == "lora")
    return RANGES.get(key) or next((ranges[name] for ranges in own if name in ranges), None)


def contradictions(config: Any) -> list[str]:
    """Return one message per pair of settings of a built `SweepConfig` that exclude each other."""
    found = _mixed_demo(config.data)
    has_options = config.data.format in WITH_OPTIONS
    if METRICS[config.eval.objective].needs_options and not has_options:
        found.append(f"eval.objective: {config.eval.objective} needs answer options, "
                     f"which data.format={config.data.format} does not have; "
                     "use rougeL, exact_match or loss")  # fmt: skip
    if config.data.format == "text" and any(METRICS[name].from_texts for name in config.eval.all_metrics):
        found.append("eval: plain text has no reference answer; use loss or perplexity")
    if config.train.optim == "paged_adamw_8bit" and config.model.dtype == "fp16":
        found.append("train.optim: paged_adamw_8bit cannot be loss-scaled; use model.dtype=bf16 or fp32")
    if config.study.pruner != "none" and config.eval.rungs == 1:
        found.append(f"study.pruner: {config.study.pruner} stops trials at rungs before their end, and eval.rungs=1 "
                     "has none; set eval.rungs=5 or study.pruner=none")  # fmt: skip
    return found


def _mixed_demo(data: Any) -> list[str]:
    """Refuse demo rows together with the user's own: training on other rows cannot teach the demo's answers."""
    sources = {f"data.{name}": getattr(data, name) for name in ("train", "validation", "test")}
    demo = [key for key, source in sources.items() if source and source.startswith(DEMO_FILES)]
    own = {key: source for key, source in sources.items() if source and key not in demo}
    if not demo or not own:
        return []
    named = " and ".join(f"{key}={source}" for key, source in own.items())
    unset = " ".join(f"{key}=null" for key in demo)
    return [
        f"{' and '.join(demo)}: the demo's rows cannot be combined with {named}; set {unset}, or name your own files"
    ]
