"""Adapters on disk, in PEFT's format: `PeftModel.from_pretrained` reads them as its own."""

import json
import tempfile
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from lorasweep.adapters.bank import Bank
from lorasweep.adapters.slot import Slot
from lorasweep.core.errors import ModelError
from lorasweep.core.files import write_bytes
from lorasweep.core.spec import LoraSpec, ModelSpec
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


def peft_config(model: ModelSpec, info: BaseInfo, lora: LoraSpec) -> bytes:
    """Return `adapter_config.json` as PEFT itself writes it."""
    from peft import LoraConfig, TaskType

    alpha = int(lora.lora_alpha) if lora.lora_alpha == int(lora.lora_alpha) else lora.lora_alpha
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        base_model_name_or_path=model_path(model.id),
        revision=model.revision,
        r=lora.r,
        lora_alpha=alpha,
        lora_dropout=lora.lora_dropout,
        use_rslora=lora.use_rslora,
        target_modules=list(lora.target_modules),
        fan_in_fan_out=info.is_transposed,
        inference_mode=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        raw = json.loads((Path(folder) / CONFIG).read_text())
    raw["target_modules"] = sorted(raw["target_modules"])  # PEFT keeps a set, whose order changes from run to run
    return json.dumps(raw, indent=2, sort_keys=True).encode()
