"""Adapters on disk in PEFT's format, which `PeftModel.from_pretrained` reads."""

import json
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from lorasweep.adapters.bank import Bank
from lorasweep.adapters.methods.table import METHODS, method_of
from lorasweep.adapters.slot import Slot
from lorasweep.core.errors import ModelError
from lorasweep.core.files import write_bytes
from lorasweep.core.spec import AdapterSpec, ModelSpec
from lorasweep.data.cache import cache_dir, remembered
from lorasweep.models.shape import BaseInfo, model_path

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


def save_adapter(bank: Bank, slot: Slot, folder: Path) -> int:
    """Write a slot's adapter and return the size of its weights in bytes."""
    weights = save(bank.adapter(slot), metadata={"format": "pt"})
    write_bytes(folder / CONFIG, peft_config(bank.base.spec, bank.base.info, slot.spec))
    write_bytes(folder / WEIGHTS, weights)
    return len(weights)


def load_adapter(folder: Path) -> dict[str, Tensor]:
    """Read an adapter's weights.

    Raises:
        ModelError: the file is missing or damaged.
    """
    try:
        return load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{folder}: holds no readable adapter ({error}); run the trial again") from error


def peft_config(model: ModelSpec, info: BaseInfo, spec: AdapterSpec) -> bytes:
    """Return `adapter_config.json` as PEFT itself writes it."""
    method = method_of(spec)
    raw = defaults(method.peft_type)
    if "fan_in_fan_out" in raw:
        raw["fan_in_fan_out"] = info.is_transposed
    raw |= {
        "base_model_name_or_path": model_path(model.id),
        "revision": model.revision,
        "target_modules": sorted(spec.target_modules),  # PEFT writes a set, in any order
        **method.peft_settings(spec),
    }
    return json.dumps(raw, indent=2, sort_keys=True).encode()


def learn_formats() -> None:
    """Store the defaults of all methods, so that saving an adapter imports nothing."""
    for method in METHODS.values():
        defaults(method.peft_type)


def defaults(peft_type: str) -> dict[str, Any]:
    """Return what PEFT writes for a configuration with default values. It is stored: importing PEFT takes a second."""
    file = cache_dir() / "peft" / f"{peft_type}-{metadata.version('peft')}.json"
    return remembered(file, lambda: _written_by_peft(peft_type), _with_type, dict)


def _with_type(raw: dict[str, Any]) -> dict[str, Any]:
    return {**raw, "peft_type": raw["peft_type"]}


def _written_by_peft(peft_type: str) -> dict[str, Any]:
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING, TaskType

    with tempfile.TemporaryDirectory() as folder:
        config = PEFT_TYPE_TO_CONFIG_MAPPING[peft_type](task_type=TaskType.CAUSAL_LM, inference_mode=True)
        config.save_pretrained(folder)
        written: dict[str, Any] = json.loads((Path(folder) / CONFIG).read_text())
    return written
