"""Tiny bases of many architectures of transformers, with every kind of layer that each has."""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from lorasweep.adapters.load import load_base
from lorasweep.core.spec import ModelSpec
from lorasweep.models import tiny_base
from lorasweep.models.base import Base
from tests.tiny import tokenizer

MIXED = ["linear_attention", "full_attention"]

# Settings of a tiny base in addition to `tiny_base.SIZES`.
SETTINGS: dict[str, dict[str, Any]] = {
    "afmoe": {},
    "apertus": {},
    "arcee": {},
    "aria_text": {},
    "bamba": {"attn_layer_indices": [1]},
    "beam": {},
    "biogpt": {},
    "bitnet": {},
    "bloom": {},
    "codegen": {"rotary_dim": 8},
    "cohere": {},
    "cohere2": {},
    "cohere2_moe": {},
    "ctrl": {},
    "cwm": {},
    "deepseek_v2": {"n_routed_experts": 4, "num_experts_per_tok": 2},
    "deepseek_v3": {},
    "deepseek_v32": {"index_topk": 64},  # with fewer, equal scores would be chosen in any order
    "deepseek_v4": {},
    "diffllama": {},
    "doge": {},
    "ernie4_5": {},
    "ernie4_5_moe": {},
    "exaone4": {"layer_types": ["sliding_attention", "full_attention"]},
    "exaone_moe": {},
    "falcon": {},
    "falcon alibi": {"alibi": True, "multi_query": False, "parallel_attn": False},
    "falcon_mamba": {},
    "flex_olmo": {},
    "flint": {},
    "gemma": {},
    "gemma2": {},
    "gemma3_text": {"layer_types": ["sliding_attention", "full_attention"]},
    "gemma4_text": {},
    "glm": {},
    "glm4": {},
    "glm4_moe": {},
    "glm4_moe_lite": {},
    "gpt2": {},
    "gpt_bigcode": {},
    "gpt_neo": {},
    "gpt_neox": {},
    "gpt_neox_japanese": {},
    "gpt_oss": {},
    "gptj": {"rotary_dim": 8},
    "granite": {},
    "granite_swa": {},
    "granitemoe": {},
    "granitemoehybrid": {"layer_types": MIXED},
    "granitemoeshared": {},
    "helium": {},
    "hy_v3": {},
    "hyperclovax": {},
    "inkling_text": {},
    "jais2": {},
    "jamba": {},
    "jetmoe": {},
    "kolibri1": {},
    "laguna": {},
    "lfm2": {"num_hidden_layers": 2, "layer_types": ["conv", "full_attention"]},
    "lfm3": {},
    "llama": {},
    "llama4_text": {},
    "mamba": {},
    "mellum": {},
    "mimo_v2_flash": {},
    "minicpm3": {},
    "minimax": {},
    "minimax_m2": {},
    "ministral3": {},
    "mistral": {},
    "mixtral": {},
    "modernbert-decoder": {},
    "moshi": {},
    "mpt": {},
    "nanochat": {},
    "nemotron": {"num_key_value_heads": 2, "head_dim": 16},
    "nemotron_h": {},
    "olmo": {},
    "olmo2": {},
    "olmo3": {},
    "olmo_hybrid": {},
    "olmoe": {},
    "openai-gpt": {},
    "opt": {},
    "persimmon": {},
    "phi": {},
    "phi3": {},
    "phimoe": {},
    "qwen2": {},
    "qwen2_moe": {},
    "qwen3": {},
    "qwen3_5_moe_text": {},
    "qwen3_5_text": {},
    "qwen3_moe": {},
    "qwen3_next": {},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "rwkv": {},
    "seed_oss": {},
    "smollm3": {},
    "solar_open": {},
    "stablelm": {},
    "starcoder2": {},
    "vaultgemma": {},
    "xglm": {},
    "youtu": {},
}


def model_of(kind: str, **settings: Any) -> Any:
    """Return a tiny random model of an architecture."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    own = {**SETTINGS[kind], **settings}
    configuration = CONFIG_MAPPING[kind.split()[0]]  # the suffix distinguishes variants of an architecture
    small = {**tiny_base.small_settings(configuration().to_dict()), **own}
    model = tiny_base.random_model(configuration(**small)) if own else tiny_base.tiny_model(configuration())
    assert model is not None, kind
    return model


def save_architecture(kind: str, folder: Path, **settings: Any) -> Path:
    """Write a tiny base with a tokenizer of single characters."""
    torch.manual_seed(0)
    model_of(kind, **settings).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def table_row(kind: str, base: Base) -> str:
    """Return an architecture's row in the documentation: how its batches run, and modules without adapter."""
    paths = base.shortcuts
    training = "end to end" if paths.is_flat else "padded" if paths.can_pad else "one row at a time"
    options = {"cache": "prompt's cache copied", "none": "a row each"}.get(paths.option_form, "one row")
    answers = {"padded": "padded", "one_length": "one length at a time"}.get(paths.generation, "without a cache")
    refused = ", ".join(sorted({f"`{path.split('.')[-1]}`" for path in base.info.unusable})) or "–"
    return f"| {kind} | {training} | {options} | {answers} | {refused} |"


def main() -> None:
    """Print the rows of the architectures that are named, or of all."""
    for kind in sys.argv[1:] or SETTINGS:
        with TemporaryDirectory() as folder:
            print(
                table_row(kind, load_base(ModelSpec(id=str(save_architecture(kind, Path(folder)))), "cpu")), flush=True
            )


if __name__ == "__main__":
    main()
