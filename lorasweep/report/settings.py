"""Find the settings that differ between trials and those that are the same for all, and name them."""

import re
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from lorasweep.core.result import TrialResult
from lorasweep.core.spec import TrialSpec, unused_settings
from lorasweep.report.figures import setting

# Settings that are always reported, even if they were not swept; the trials' files hold the rest.
ESSENTIAL = (
    "model.id", "model.revision", "model.dtype", "model.precision",
    "lora.method", "lora.r", "lora.lora_alpha", "lora.lora_dropout", "lora.use_rslora", "lora.target_modules",
    "train.learning_rate", "train.per_device_train_batch_size", "train.gradient_accumulation_steps",
    "train.num_train_epochs", "train.max_steps", "train.lr_scheduler_type", "train.warmup_steps", "train.seed",
    "data.train", "data.limit", "data.max_length", "eval.limit",
)  # fmt: skip
SEED = "train.seed"  # a row is the mean over its seeds, so the seed is not one of its settings
SCALE_PARTS = {"lora.r", "lora.lora_alpha", "lora.use_rslora"}  # they decide alpha/r (with rsLoRA alpha/sqrt(r))
# Words, paths and lists that Hydra's override grammar reads without quotes.
PLAIN_OVERRIDE = re.compile(r"[\w./:+-]+|\[[\w., -]*\]")


def varying(results: Sequence[TrialResult]) -> tuple[str, ...]:
    """Return the swept settings that had more than one value among trials in which they had an effect."""
    values: dict[str, set[str]] = {key: set() for result in results for key in result.params}
    for result in results:
        for key, value in result.trial.effective.items():
            values[key].add(repr(value))
    return tuple(key for key, seen in values.items() if len(seen) > 1 and key != SEED)


def fixed(results: Sequence[TrialResult]) -> dict[str, str]:
    """Return the settings that all trials share: swept settings that did not vary, then the `ESSENTIAL` ones."""
    moving = varying(results)
    specs = [_leaves(result.spec) for result in results]
    if not _is_shared(SEED, specs):
        moving = (*moving, SEED)
    swept = {k: v for result in reversed(results) for k, v in result.trial.effective.items()}
    shared = {key: setting(value) for key, value in swept.items() if key not in moving}
    for key in ESSENTIAL:
        if key not in {*moving, *shared} and _is_shared(key, specs) and not _is_unset(specs[0].get(key)):
            shared[key] = setting(specs[0][key])
    if not SCALE_PARTS & set(moving) and len(scales := {result.spec.lora.scale for result in results}) == 1:
        shared |= {"alpha/r": setting(scales.pop())} if scales != {None} else {}
    idle = set.intersection(*(set(unused_settings(result.spec)) for result in results)) if results else set()
    return {key: value for key, value in shared.items() if key not in idle}


def labels(keys: Iterable[str]) -> dict[str, str]:
    """Return a label for each setting: the last part of its name, or the full name if two settings share that part."""
    names = list(keys)
    shared = Counter(key.rsplit(".", 1)[-1] for key in names)
    return {key: last if shared[last := key.rsplit(".", 1)[-1]] == 1 else key for key in names}


def overrides(result: TrialResult) -> str:
    """Return the trial's swept settings with exact values as overrides for the command line."""
    return " ".join(shlex.quote(f"{key}={_override(value)}") for key, value in result.trial.effective.items())


def _leaves(spec: TrialSpec) -> dict[str, Any]:
    return {f"{section}.{key}": value for section, values in asdict(spec).items() for key, value in values.items()}


def _is_shared(key: str, specs: Sequence[dict[str, Any]]) -> bool:
    return bool(specs) and all(spec.get(key) == specs[0].get(key) for spec in specs)


def _is_unset(value: object) -> bool:
    return value is None or value == -1


def _override(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{','.join(_override(v) for v in value)}]"
    text = str(value)
    if PLAIN_OVERRIDE.fullmatch(text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
