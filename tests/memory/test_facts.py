"""Predictions compared with published counts, PEFT, accelerate, and the tensors that autograd saves."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lorasweep.adapters import stack_plan
from lorasweep.adapters.bank import Bank
from lorasweep.adapters.load import load_base
from lorasweep.adapters.methods.lora import LoraSpec
from lorasweep.adapters.methods.table import method_of
from lorasweep.core.sizes import GIB
from lorasweep.core.spec import DType, ModelSpec, Precision, TrialSpec
from lorasweep.data.batches import micro_batches, pack
from lorasweep.memory import Loads, lengths_of, weight_bytes
from lorasweep.memory.activations import kept_bytes, load_of, stacks_of
from lorasweep.memory.gpus import fitting, rule_of_thumb
from lorasweep.models.info import describe, resolve_targets
from lorasweep.models.shape import BaseInfo
from tests.settings import SPEC, num_parameters
from tests.tiny import token_rows

COMMON = {
    "vocab_size": 96, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GROUPED = {**COMMON, "num_key_value_heads": 2, "head_dim": 16}
GPT2 = {"vocab_size": 96, "n_embd": 64, "n_layer": 2, "n_head": 4, "bos_token_id": 1, "eos_token_id": 2}
OPT = {"vocab_size": 96, "hidden_size": 64, "ffn_dim": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
       "word_embed_proj_dim": 64, "pad_token_id": 0}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": GROUPED, "mistral": GROUPED, "qwen2": GROUPED, "qwen3": GROUPED, "gemma2": GROUPED, "phi3": GROUPED,
    "gpt2": GPT2, "opt": OPT, "gpt_neox": COMMON, "falcon": COMMON,
    "bloom": {"vocab_size": 96, "hidden_size": 64, "n_layer": 2, "n_head": 4},
}  # fmt: skip
LLAMA_2_7B = {
    "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 32,
}  # fmt: skip


def save_config(folder: Path, kind: str, values: dict[str, Any]) -> Path:
    from transformers import AutoConfig

    AutoConfig.for_model(kind, **values).save_pretrained(folder)
    return folder


@pytest.fixture
def llama_2_7b(tmp_path: Path) -> BaseInfo:
    return describe(str(save_config(tmp_path, "llama", LLAMA_2_7B)))


@pytest.mark.parametrize(("preset", "count"), [("qv", 4_194_304), ("qvud", 11_927_552)])
def test_llama_2_7b_has_the_published_number_of_trainable_parameters(
    llama_2_7b: BaseInfo, preset: str, count: int
) -> None:
    names = resolve_targets(ModelSpec(id=llama_2_7b.name), preset)
    assert num_parameters(llama_2_7b, names, 8) == count


@pytest.mark.parametrize("preset", ["qv", "all-linear"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_trainable_parameters_are_those_that_peft_counts(tmp_path: Path, kind: str, preset: str) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = str(save_config(tmp_path, kind, CONFIGS[kind]))
    names = resolve_targets(ModelSpec(id=folder), preset)
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))  # type: ignore[no-untyped-call]
        peft = get_peft_model(model, LoraConfig(r=4, target_modules=list(names), fan_in_fan_out=kind == "gpt2"))
    assert num_parameters(describe(folder), names, 4) == peft.get_nb_trainable_parameters()[0]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "phi3", "bloom"])
def test_weights_are_those_that_accelerate_counts(tmp_path: Path, kind: str) -> None:
    from accelerate.utils import calculate_maximum_sizes
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = str(save_config(tmp_path, kind, CONFIGS[kind]))
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))  # type: ignore[no-untyped-call]
        model.tie_weights()
    parameters = calculate_maximum_sizes(model)[0] - sum(b.numel() * b.element_size() for b in model.buffers())
    assert weight_bytes(describe(folder), ModelSpec(id=folder)) == pytest.approx(parameters, rel=0.01)


@pytest.mark.slow
def test_quantised_weights_take_what_they_take_in_memory() -> None:
    for precision in ("int8", "nf4", "nf4_double"):
        spec = ModelSpec(id="demo", dtype="bf16", precision=precision)
        model: Any = load_base(spec, "cpu").model
        assert weight_bytes(describe("demo"), spec) == pytest.approx(_stored(model), rel=0.01)


def _stored(model: torch.nn.Module) -> int:
    """Sum a model's weights and the constants that bitsandbytes stores with them."""
    size: int = sum(p.numel() * p.element_size() for p in model.parameters())
    for module in model.modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        nested = getattr(state, "state2", None)
        for found in (state, nested):
            size += 0 if found is None else found.absmax.numel() * found.absmax.element_size()
        size += 0 if nested is None else nested.code.numel() * 4
        scales = getattr(getattr(module, "state", None), "SCB", None)
        size += 0 if scales is None else scales.numel() * 4
    return size


class Saved:
    """Collects the tensors that autograd saves, each storage once, without parameters."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.known = {p.untyped_storage().data_ptr() for p in model.parameters()}
        self.alive: list[torch.Tensor] = []
        self.num_bytes = 0

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        self.alive.append(tensor)  # otherwise its address would be reused
        if storage.data_ptr() not in self.known:
            self.known.add(storage.data_ptr())
            self.num_bytes += storage.nbytes()
        return tensor


@pytest.mark.parametrize("targets", ["qv", "all-linear"])
@pytest.mark.parametrize(
    ("dtype", "precision", "dropout"), [("fp32", "none", 0.0), ("bf16", "none", 0.1), ("bf16", "nf4", 0.0)]
)
def test_what_is_kept_for_backward_is_what_autograd_saves(
    targets: str, dtype: DType, precision: Precision, dropout: float
) -> None:
    model = ModelSpec(id="demo", dtype=dtype, precision=precision)
    names = resolve_targets(model, targets)
    lora = LoraSpec(r=8, lora_alpha=8, lora_dropout=dropout, target_modules=names)
    spec = replace(SPEC, model=model, lora=lora)
    kept, expected = _kept_in_one_pass(spec)
    assert expected == pytest.approx(kept, rel=0.03)  # the first norm saves nothing


def _kept_in_one_pass(spec: TrialSpec) -> tuple[int, int]:
    rows = [row for row in token_rows(400) if len(row.ids) == 16][:12]
    base = load_base(spec.model, "cpu")
    bank = Bank(base, 3)
    slots = [bank.add(i, spec.lora, i, 64) for i in range(3)]
    batches = [next(micro_batches(rows, batch_size=4, accumulation=1, seed=i)) for i in range(3)]
    saved = Saved(base.model)
    with torch.autograd.graph.saved_tensors_hooks(saved, lambda x: x):
        bank.backward(
            slots, batches, pack(batches, 0, flat=base.shortcuts.is_flat), steps=[0] * 3, scale_K=torch.ones(3)
        )
    return saved.num_bytes, _predicted(base.info, [(spec, lengths_of(rows, rows))] * 3)


def _predicted(shape: BaseInfo, loads: Loads) -> int:
    specs, each = [spec for spec, _ in loads], [load_of(spec, lengths) for spec, lengths in loads]
    stacks = stacks_of(shape, specs, each, "cpu")
    dropout = any(method_of(spec.lora).dropout(spec.lora) for spec in specs)
    return sum(
        kept_bytes(shape, spec, load, kind="cpu", stack=stack, dropout=dropout)
        for spec, load, stack in zip(specs, each, stacks, strict=True)
    )


# Ranks, rows and modules of three trials in one bank.
MIXED = {
    "rows": ((8, 8, 8), (1, 4, 8), ("qv", "qv", "qv")),
    "ranks and rows": ((2, 8, 32), (8, 2, 4), ("all-linear", "all-linear", "all-linear")),
    "modules and rows": ((4, 4, 16), (2, 8, 4), ("qv", "all-linear", "qvud")),
}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("precision", ["none", "nf4"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("mixture", MIXED)
def test_predicted_bytes_of_a_mixed_bank_are_those_autograd_saves_with_padding(
    mixture: str, dropout: float, precision: Precision, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With CUDA's higher cost per operation more trials share a stack, so there is more padding."""
    monkeypatch.setitem(stack_plan.OVERHEAD, "cpu", stack_plan.OVERHEAD[device])
    model = ModelSpec(id="demo", dtype="fp32" if precision == "none" else "bf16", precision=precision)
    specs = _mixed(model, mixture, dropout)
    kept, expected = kept_by(specs)
    assert expected == pytest.approx(kept, rel=0.04)


@pytest.mark.parametrize("mixture", MIXED)
def test_predicted_bytes_of_a_mixed_int8_bank_are_at_least_those_autograd_saves(mixture: str) -> None:
    """On the CPU some int8 layers save no input; on a GPU all do, as predicted."""
    kept, expected = kept_by(_mixed(ModelSpec(id="demo", dtype="bf16", precision="int8"), mixture, 0.0))
    assert 0.99 * kept <= expected <= 1.35 * kept


def _mixed(model: ModelSpec, mixture: str, dropout: float) -> list[TrialSpec]:
    return [
        replace(
            SPEC,
            model=model,
            lora=LoraSpec(r=r, lora_alpha=8, lora_dropout=dropout, target_modules=resolve_targets(model, targets)),
            train=replace(SPEC.train, per_device_train_batch_size=rows),
        )
        for r, rows, targets in zip(*MIXED[mixture], strict=True)
    ]


def kept_by(specs: Sequence[TrialSpec]) -> tuple[int, int]:
    rows = [row for row in token_rows(400) if len(row.ids) == 16][:12]
    base = load_base(specs[0].model, "cpu")
    bank = Bank(base, len(specs))
    sizes = [spec.train.per_device_train_batch_size for spec in specs]
    numbers = {bank.add(i, s.lora, i, 16 * size): i for i, (s, size) in enumerate(zip(specs, sizes, strict=True))}
    slots = list(bank.slots)  # as they are trained
    batches = [next(micro_batches(rows, batch_size=sizes[numbers[slot]], accumulation=1, seed=0)) for slot in slots]
    saved = Saved(base.model)
    with torch.autograd.graph.saved_tensors_hooks(saved, lambda x: x):
        bank.backward(
            slots, batches, pack(batches, 0, flat=base.shortcuts.is_flat), steps=[0] * 3, scale_K=torch.ones(3)
        )
    return saved.num_bytes, _predicted(base.info, [(spec, lengths_of(rows, rows)) for spec in specs])


def test_the_rule_of_thumb_gives_its_published_figure(llama_2_7b: BaseInfo) -> None:
    half = ModelSpec(id=llama_2_7b.name, dtype="bf16")
    assert rule_of_thumb(llama_2_7b, half) == pytest.approx(2.4 * llama_2_7b.num_parameters)
    assert min(fitting(rule_of_thumb(llama_2_7b, half))) == 16  # 15.1 GiB


@pytest.mark.parametrize(("need", "smallest"), [(1, 8), (23, 32), (37, 40), (79, 141), (1000, None)])
def test_the_smallest_gpu_that_fits_has_a_little_to_spare(need: float, smallest: int | None) -> None:
    assert min(fitting(need * GIB), default=None) == smallest
