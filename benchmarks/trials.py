"""Parts of benchmarks: random bases of known shapes, rows of the demo's text, full banks, and timers."""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from lorasweep.adapters.bank import Bank
from lorasweep.adapters.methods.lora import LoraSpec
from lorasweep.adapters.train_state import TrainState, make_train_state, usual_tokens
from lorasweep.core.spec import AdapterSpec, EvalSpec, ModelSpec, TrainSpec
from lorasweep.data.render import TokenRow
from lorasweep.models.base import Base
from lorasweep.models.info import resolve_targets
from lorasweep.models.shape import DEMO

TEXT = DEMO.parent / "data" / "answers" / "train.jsonl"
RANK = 16
GEMM_SIZE = 2048  # large enough that the launch of a multiplication does not matter; 16 MiB per matrix in fp32
SHAPES = {  # hidden, inner, layers, heads, key-value heads, vocabulary, tied embeddings
    "tiny-1m": (128, 384, 4, 4, 4, 8192, True),
    "small-15m": (384, 1024, 8, 6, 6, 8192, True),
    "medium-60m": (640, 1728, 12, 10, 10, 8192, True),
    "llama-20m": (256, 688, 8, 4, 4, 32000, True),
    "llama-60m": (512, 1376, 8, 8, 4, 32000, True),
    "llama-100m": (640, 1708, 12, 10, 5, 32000, True),
    "0.5b": (896, 4864, 24, 14, 2, 151_936, True),  # Qwen2.5-0.5B
    "1b": (2048, 8192, 16, 32, 8, 128_256, True),  # Llama-3.2-1B
    "8b": (4096, 14_336, 32, 32, 8, 128_256, False),  # Llama-3-8B
}

Trial = tuple[AdapterSpec, TrainSpec]


def write_base(folder: Path, shape: str, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Path:
    """Write a Llama of this shape with random weights and the demo's tokenizer, and return its folder."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    hidden, inner, layers, heads, kv_heads, vocab, tied = SHAPES[shape]
    config = LlamaConfig(
        hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=kv_heads, vocab_size=vocab, tie_word_embeddings=bool(tied), max_position_embeddings=2048,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device(device):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)  # type: ignore[no-untyped-call]
    model.save_pretrained(folder / shape)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DEMO / name, folder / shape / name)
    return folder / shape


def rows_of(base: Base, length: int, spread: tuple[float, float] = (1.0, 1.0), num: int = 64) -> list[TokenRow]:
    """Cut the demo's answers into rows, a quarter of each being labels; `spread` is their range of lengths."""
    text = " ".join(json.loads(line)["output"] for line in TEXT.read_text().splitlines())
    ids = base.tokenizer(text)["input_ids"]
    generator = torch.Generator().manual_seed(0)
    rows = []
    for _ in range(num):
        size = int(torch.randint(int(length * spread[0]), int(length * spread[1]) + 1, (), generator=generator))
        start = int(torch.randint(0, len(ids) - size, (), generator=generator))
        labels = tuple(i >= size * 3 // 4 for i in range(size))
        rows.append(TokenRow(ids=tuple(ids[start : start + size]), is_label=labels, prompt_length=size * 3 // 4))
    return rows


def trial(model: ModelSpec, seed: int, *, rank: int = RANK, targets: str = "all-linear", batch: int = 1) -> Trial:
    """Return a trial whose learning rate and seed follow from its number."""
    lora = LoraSpec(r=rank, lora_alpha=2 * rank, target_modules=resolve_targets(model, targets))
    return lora, TrainSpec(
        learning_rate=1e-4 * (1 + seed % 4), per_device_train_batch_size=batch, max_steps=10_000, seed=seed,
        lr_scheduler_type="constant",
    )  # fmt: skip


def fill(bank: Bank, trials: Sequence[Trial], rows: Sequence[TokenRow]) -> list[TrainState]:
    """Give each trial a slot and return its training state."""
    train_states = []
    for i, (lora, train) in enumerate(trials):
        slot = bank.add(i, lora, train.seed, usual_tokens(rows, train))
        train_states.append(make_train_state(slot, train, rows, EvalSpec(rungs=1), bank.base.spec.dtype))
    return train_states


def gemm_rate(dtype: torch.dtype, device: str = "cpu") -> float:
    """Return floating-point operations per second of a large square multiplication, the median of several."""
    a = torch.randn(GEMM_SIZE, GEMM_SIZE, device=device).to(dtype)
    times = [seconds(lambda: a @ a, device) for _ in range(8)]
    return 2 * GEMM_SIZE**3 / median(times[1:])  # the first one warms up


def seconds(act: Callable[[], object], device: str = "cpu") -> float:
    """Return the seconds of a call, on a GPU until its kernels have finished."""
    wait: Callable[[], None] = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    wait()
    started = time.perf_counter()
    act()
    wait()
    return time.perf_counter() - started
