"""Adapters on disk in PEFT's format, which `PeftModel.from_pretrained` reads."""

import json
import tempfile
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from lorasweep.adapters.bank import Bank
from lorasweep.adapters.methods.table import method_of
from lorasweep.adapters.slot import Slot
from lorasweep.core.errors import ModelError
from lorasweep.core.files import write_bytes
from lorasweep.core.spec import AdapterSpec, ModelSpec
from lorasweep.models.info import BaseInfo, model_path

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
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING, TaskType

    method = method_of(spec)
    make = PEFT_TYPE_TO_CONFIG_MAPPING[method.peft_type]
    settings = method.peft_settings(spec)
    if "fan_in_fan_out" in make.__dataclass_fields__:
        settings |= {"fan_in_fan_out": info.is_transposed}
    config = make(
        task_type=TaskType.CAUSAL_LM,
        base_model_name_or_path=model_path(model.id),
        revision=model.revision,
        target_modules=list(spec.target_modules),
        inference_mode=True,
        **settings,
    )
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        raw = json.loads((Path(folder) / CONFIG).read_text())
    # PEFT stores sets as lists, whose order changes from run to run.
    raw |= {name: sorted(value) for name, value in raw.items() if isinstance(getattr(config, name, None), set)}
    return json.dumps(raw, indent=2, sort_keys=True).encode()
