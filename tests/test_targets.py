"""Presets select the same parts in every architecture; parameter counts equal those of PEFT."""

import json
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from lorasweep.core.errors import ModelError
from lorasweep.models.info import describe
from lorasweep.models.shape import BaseInfo
from lorasweep.models.targets import PRESETS, matches, resolve
from tests.settings import num_parameters

SMALL = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 96,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GROUPED = {**SMALL, "num_key_value_heads": 2}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": GROUPED,
    "qwen2": GROUPED,
    "mistral": GROUPED,
    "gemma": {**GROUPED, "head_dim": 16},
    "phi3": GROUPED,
    "gpt_neox": SMALL,
    "falcon": SMALL,
    "opt": {**SMALL, "ffn_dim": 128, "word_embed_proj_dim": 64},
    "gpt2": {**SMALL, "n_embd": 64, "n_layer": 2, "n_head": 4},
}

SPLIT = {
    "qv": ("q_proj", "v_proj"),
    "qkv": ("k_proj", "q_proj", "v_proj"),
    "attention": ("k_proj", "o_proj", "q_proj", "v_proj"),
    "mlp": ("down_proj", "gate_proj", "up_proj"),
    "qvud": ("down_proj", "q_proj", "up_proj", "v_proj"),
}
FUSED = {
    "qv": ("query_key_value",),
    "attention": ("dense", "query_key_value"),
    "mlp": ("dense_4h_to_h", "dense_h_to_4h"),
}
EXPECTED: dict[str, dict[str, tuple[str, ...]]] = {
    "llama": SPLIT,
    "qwen2": SPLIT,
    "mistral": SPLIT,
    "gemma": SPLIT,
    "phi3": {"qv": ("qkv_proj",), "attention": ("o_proj", "qkv_proj"), "mlp": ("down_proj", "gate_up_proj")},
    "gpt_neox": FUSED,
    "falcon": FUSED,
    "opt": {"qv": ("q_proj", "v_proj"), "attention": ("k_proj", "out_proj", "q_proj", "v_proj"), "mlp": ("fc1", "fc2")},
    "gpt2": {"qv": ("c_attn",), "attention": ("attn.c_proj", "c_attn"), "mlp": ("c_fc", "mlp.c_proj")},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder per architecture with only its configuration."""
    root = tmp_path_factory.mktemp("shapes")
    for kind, settings in CONFIGS.items():
        (root / kind).mkdir()
        (root / kind / "config.json").write_text(json.dumps({"model_type": kind, **settings}))
    return {kind: root / kind for kind in CONFIGS}


def info_of(folders: dict[str, Path], kind: str) -> BaseInfo:
    return describe(str(folders[kind]))


@cache
def peft_count(folder: Path, targets: tuple[str, ...], rank: int) -> int:
    """Return the number of parameters that PEFT trains, on a meta model."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT corrects fan_in_fan_out of GPT-2 with a warning
        config = AutoConfig.from_pretrained(folder)
        model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
        adapted = get_peft_model(model, LoraConfig(r=rank, target_modules=list(targets)))
    return sum(p.numel() for p in adapted.parameters() if p.requires_grad)


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_preset_names_each_architectures_own_modules(kind: str, folders: dict[str, Path]) -> None:
    linears = info_of(folders, kind).linears
    assert {preset: resolve((preset,), linears, kind) for preset in EXPECTED[kind]} == EXPECTED[kind]


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_preset_means_something_everywhere(kind: str, folders: dict[str, Path]) -> None:
    linears = info_of(folders, kind).linears
    assert all(resolve((preset,), linears, kind) for preset in PRESETS)


@pytest.mark.parametrize("kind", CONFIGS)
def test_all_linear_adapts_every_linear_but_the_head(kind: str, folders: dict[str, Path]) -> None:
    info = info_of(folders, kind)
    targets = resolve(("all-linear",), info.linears, kind)
    assert info.adapted(targets) == info.linears
    assert not any("head" in path or "embed" in path for path in info.linears)


@pytest.mark.parametrize("preset", ["qv", "mlp", "all-linear"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_trainable_parameters_are_those_that_peft_counts(kind: str, preset: str, folders: dict[str, Path]) -> None:
    info = info_of(folders, kind)
    targets = resolve((preset,), info.linears, kind)
    for rank in (2, 8):
        assert num_parameters(info, targets, rank) == peft_count(folders[kind], targets, rank)


@pytest.mark.parametrize(
    ("targets", "count"),
    [
        (("q_proj", "v_proj"), 4_194_304),  # as in PEFT's and the LoRA paper's examples
        (("q_proj", "v_proj", "up_proj", "down_proj"), 11_927_552),
    ],
)
def test_rank_eight_of_llama_2_7b_has_its_published_size(targets: tuple[str, ...], count: int, tmp_path: Path) -> None:
    shape = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 32000, **shape}))
    info = describe(str(tmp_path))
    assert info.num_parameters == 6_738_415_616
    assert num_parameters(info, targets, 8) == count


def test_a_list_that_means_a_preset_is_that_preset(folders: dict[str, Path]) -> None:
    gpt2 = info_of(folders, "gpt2").linears
    assert resolve(("c_proj", "c_attn", "c_fc"), gpt2, "gpt2") == resolve(("all-linear",), gpt2, "gpt2")
    llama = info_of(folders, "llama").linears
    assert resolve(("v_proj", "self_attn.q_proj"), llama, "llama") == resolve(("qv",), llama, "llama")


def test_a_single_layers_module_stays_a_single_one(folders: dict[str, Path]) -> None:
    llama = info_of(folders, "llama")
    targets = resolve(("layers.1.self_attn.q_proj",), llama.linears, "llama")
    assert list(llama.adapted(targets)) == ["model.layers.1.self_attn.q_proj"]


def test_a_name_that_is_no_module_is_answered_with_those_there_are(folders: dict[str, Path]) -> None:
    linears = info_of(folders, "llama").linears
    with pytest.raises(ModelError, match=r"llama has no module 'q_prj'; did you mean 'q_proj'\?; it has down_proj, "):
        resolve(("q_prj", "v_proj"), linears, "llama")


def test_a_preset_with_missing_modules_is_an_error() -> None:
    attention_only = ["layers.0.self_attn.q_proj", "layers.0.self_attn.v_proj"]
    with pytest.raises(ModelError, match="has no module for up, down of the preset 'qvud'"):
        resolve(("qvud",), attention_only, "a mixture of experts")


@pytest.mark.parametrize(("path", "is_match"), [("a.q_proj", True), ("q_proj", True), ("a.seq_proj", False)])
def test_a_target_ends_a_path_at_a_dot(path: str, is_match: bool) -> None:
    assert matches(path, "q_proj") == is_match


@pytest.mark.parametrize("base", ["./no/such/folder", "/no/such", "a/b/c"])
def test_a_missing_folder_is_distinguished_from_a_hub_id(base: str) -> None:
    with pytest.raises(ModelError, match="there is no folder"):
        describe(base)


def test_a_hub_id_that_cannot_be_reached_is_named() -> None:
    with pytest.raises(ModelError, match="'nobody/nothing' cannot be read as a folder or a hub model"):
        describe("nobody/nothing")
