"""Adapters on disk are in PEFT's format: stock PEFT reads them and computes the same logits."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, TaskType

from lorasweep.adapters.bank import Bank
from lorasweep.adapters.load import load_base
from lorasweep.adapters.methods.lora import LoraSpec
from lorasweep.adapters.peft_format import CONFIG, WEIGHTS, load_adapter, peft_config, save_adapter
from lorasweep.adapters.slot import Slot
from lorasweep.core.errors import ModelError
from lorasweep.core.spec import ModelSpec
from lorasweep.models.base import Base
from lorasweep.models.info import describe, resolve_targets
from lorasweep.models.shape import DEMO
from lorasweep.worker.live_trials import LiveTrials
from tests.tiny import save_base

IDS = torch.arange(5, 17)[None]


@pytest.fixture(scope="module", params=["demo", "gpt2", "qwen2"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Base:
    """A base to adapt; `demo` is a Llama."""
    if request.param == "demo":
        return load_base(ModelSpec(id="demo"), "cpu")
    return load_base(ModelSpec(id=str(save_base(tmp_path_factory.mktemp("my bases") / "b", request.param))), "cpu")


def filled(base: Base, targets: str = "all-linear", **changes: Any) -> tuple[Bank, Slot]:
    """Return a bank whose second slot has an adapter that changes the output."""
    modules = resolve_targets(base.spec, targets)
    spec = replace(LoraSpec(r=4, lora_alpha=12, target_modules=modules), **changes)
    bank = Bank(base, 2)
    bank.add(0, replace(spec, r=8), 0)
    slot = bank.add(1, spec, 1)
    torch.manual_seed(0)
    for tensor in slot.parameters:
        tensor.data.normal_(0, 0.1)
    return bank, slot


def logits(bank: Bank, slot: Slot) -> torch.Tensor:
    with torch.no_grad(), bank.rows([(slot, 1)]):
        return bank.base.label_logits(IDS, torch.zeros(12, dtype=torch.long), torch.arange(12))


def stock(base: Base, folder: Path) -> torch.Tensor:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    path = DEMO if base.spec.id == "demo" else base.spec.id
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    with torch.no_grad():
        result: torch.Tensor = PeftModel.from_pretrained(model, folder)(input_ids=IDS).logits[0]
    return result


@pytest.mark.parametrize("targets", ["qv", "all-linear"])
@pytest.mark.parametrize("use_rslora", [False, True])
def test_stock_peft_computes_the_banks_logits(base: Base, targets: str, use_rslora: bool, tmp_path: Path) -> None:
    bank, slot = filled(base, targets, use_rslora=use_rslora)
    save_adapter(bank, slot, tmp_path / "my adapter")
    expected = logits(bank, slot)
    plain = logits(bank, bank.live[0])
    assert (expected - plain).abs().max() > 1e-2
    torch.testing.assert_close(stock(base, tmp_path / "my adapter"), expected, atol=1e-4, rtol=0)


def test_an_adapter_goes_back_into_a_bank(base: Base, tmp_path: Path) -> None:
    bank, slot = filled(base)
    expected = logits(bank, slot)
    save_adapter(bank, slot, tmp_path)
    other = bank.live[0]
    bank.remove(other)
    fresh = bank.add(2, slot.spec, 9)
    bank.load(fresh, load_adapter(tmp_path))
    torch.testing.assert_close(logits(bank, fresh), expected, atol=1e-6, rtol=0)


def test_the_size_is_that_of_the_file(base: Base, tmp_path: Path) -> None:
    bank, slot = filled(base)
    assert save_adapter(bank, slot, tmp_path) == (tmp_path / WEIGHTS).stat().st_size > 4 * slot.num_trainable


def test_the_same_adapter_is_the_same_files(base: Base, tmp_path: Path) -> None:
    bank, slot = filled(base)
    for name in "ab":
        save_adapter(bank, slot, tmp_path / name)
    for file in (CONFIG, WEIGHTS):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_the_configuration_names_the_trained_modules(base: Base, tmp_path: Path) -> None:
    bank, slot = filled(base, lora_dropout=0.1)
    save_adapter(bank, slot, tmp_path)
    raw = json.loads((tmp_path / CONFIG).read_text())
    assert (raw["r"], raw["lora_alpha"], raw["lora_dropout"]) == (4, 12, 0.1)
    assert raw["target_modules"] == sorted(slot.spec.target_modules)
    assert raw["fan_in_fan_out"] == (base.info.model_type == "gpt2")


@pytest.mark.parametrize("damage", [b"", b"\x00" * 40])
def test_a_damaged_adapter_is_reported(damage: bytes, tmp_path: Path) -> None:
    (tmp_path / WEIGHTS).write_bytes(damage)
    with pytest.raises(ModelError, match="holds no readable adapter"):
        load_adapter(tmp_path)


def test_a_missing_adapter_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no readable adapter"):
        load_adapter(tmp_path)


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
@pytest.mark.parametrize("use_rslora", [False, True])
def test_the_configuration_is_what_peft_itself_writes(model_type: str, use_rslora: bool, tmp_path: Path) -> None:
    model = ModelSpec(id=str(save_base(tmp_path / "base", model_type)))
    spec = LoraSpec(r=4, lora_alpha=12.5, lora_dropout=0.1, use_rslora=use_rslora, target_modules=("b", "a"))
    info = describe(model.id)
    LoraConfig(
        task_type=TaskType.CAUSAL_LM, inference_mode=True, base_model_name_or_path=model.id, r=4, lora_alpha=12.5,
        lora_dropout=0.1, use_rslora=use_rslora, target_modules=["a", "b"], fan_in_fan_out=info.is_transposed,
    ).save_pretrained(str(tmp_path))  # fmt: skip
    theirs = json.loads((tmp_path / "adapter_config.json").read_text())
    ours = json.loads(peft_config(model, info, spec))
    assert ours == theirs | {"target_modules": sorted(theirs["target_modules"])}


def test_a_worker_knows_the_formats_before_it_meters_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORASWEEP_CACHE", str(tmp_path))
    LiveTrials("cpu", 1)
    assert {file.name.partition("-")[0] for file in (tmp_path / "peft").iterdir()} == {"LORA"}
