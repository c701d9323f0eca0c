"""Bases of well-known shapes with random weights, written to a folder as a user would have them."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lorasweep.adapters.load import load_base
from lorasweep.core.spec import ModelSpec
from lorasweep.models.base import Base
from lorasweep.models.info import DEMO

SHAPES: dict[str, dict[str, Any]] = {
    "tiny-1m": {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4},
    "small-15m": {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 6},
    "medium-60m": {"hidden_size": 640, "intermediate_size": 1728, "num_hidden_layers": 12, "num_attention_heads": 10},
    # Those of Qwen2.5-0.5B, Llama-3.2-1B and Llama-3-8B.
    "0.5b": {
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "vocab_size": 151_936,
        "tie_word_embeddings": True,
    },
    "1b": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128_256,
        "tie_word_embeddings": True,
    },
    "8b": {
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128_256,
        "tie_word_embeddings": False,
    },
}


def random_bases(
    shapes: Sequence[str], models: Sequence[ModelSpec], device: str = "cpu", dtype: torch.dtype = torch.float32
) -> Iterator[tuple[str, Base]]:
    """Yield each shape's base as each of these models, whose id is put in; weights are written in `dtype`."""
    for shape in shapes:
        with tempfile.TemporaryDirectory() as folder:
            path = write_base(Path(folder), shape, dtype, device)
            for model in models:
                yield shape, load_base(replace(model, id=str(path)), device)


def write_base(folder: Path, shape: str, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Path:
    """Write a Llama of this shape, whose head is sharp enough that adapters can learn through it."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        **{"vocab_size": 8192, "tie_word_embeddings": True, **SHAPES[shape]}, max_position_embeddings=2048
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)  # type: ignore[no-untyped-call]
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DEMO / name, folder / name)
    return folder
