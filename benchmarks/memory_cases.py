"""The grid of memory.py, and the random bases that it needs."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lorasweep.core.spec import DType, Precision

Mode = Literal["train", "score", "write"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Slots that train together (or are scored together) on a base, all alike, or `mixed` in rank and modules."""

    name: str
    base: str = "demo"
    dtype: DType = "fp32"
    precision: Precision = "none"
    slots: int = 1
    batch: int = 4
    length: int = 128
    rank: int = 8
    targets: str = "qv"
    dropout: float = 0.0
    checkpointing: bool = False
    optim: Literal["adamw", "paged_adamw_8bit"] = "adamw"
    mode: Mode = "train"


# hidden, inner, layers, heads, key-value heads, vocabulary
SHAPES = {
    "llama-20m": (256, 688, 8, 4, 4, 32000),
    "llama-60m": (512, 1376, 8, 8, 4, 32000),
    "llama-100m": (640, 1708, 12, 10, 5, 32000),
}


def cases() -> list[Case]:
    """Return the grid: what grows with tokens, with slots, with ranks and with the base, and what shrinks it."""
    small = Case(name="", base="llama-20m")
    grid = [Case(name="", slots=16, batch=8), Case(name="", slots=24, batch=8, targets="all-linear", rank=16)]
    grid += [replace(small, batch=1, length=64), replace(small, slots=16, batch=2)]
    grid += [replace(small, slots=16, rank=64, targets="all-linear", batch=1)]
    grid += [replace(small, slots=8, batch=2, dtype="bf16")]
    grid += [
        replace(small, batch=8, length=256, checkpointing=c, dtype="bf16", targets="attention") for c in (False, True)
    ]
    grid += [
        replace(small, batch=8, length=256, dropout=0.1),
        replace(small, slots=8, rank=64, optim="paged_adamw_8bit"),
    ]
    grid += [replace(small, batch=8, length=256, dtype="bf16", precision=p) for p in ("nf4", "int8")]
    grid += [Case(name="", base="llama-100m", batch=8, length=256)]
    for base in ("llama-60m", "llama-100m"):
        grid += [Case(name="", base=base, slots=8, batch=1, targets="all-linear", dtype="bf16")]
    grid += [replace(small, slots=4, mode="score"), replace(small, slots=4, mode="write", length=256)]
    return [replace(case, name=name_of(case)) for case in grid]


def name_of(case: Case) -> str:
    """Name a case by what is not at its default."""
    size = f"{case.base} k{case.slots} b{case.batch} s{case.length} r{case.rank} {case.targets}"
    words = [size, case.dtype]
    words += [case.precision] if case.precision != "none" else []
    words += ["dropout"] if case.dropout else []
    words += ["ckpt"] if case.checkpointing else []
    words += ["8bit"] if case.optim != "adamw" else []
    words += [case.mode] if case.mode != "train" else []
    return " ".join(words)


def save(folder: Path, name: str) -> None:
    """Write a base of random weights in bf16, with a tokenizer of characters."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

    hidden, inner, layers, heads, kv_heads, vocab = SHAPES[name]
    config = LlamaConfig(
        hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=kv_heads, vocab_size=vocab, max_position_embeddings=1024, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)  # type: ignore[no-untyped-call]
    model.save_pretrained(folder / name)
    core = Tokenizer(WordLevel({"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3}, unk_token="<unk>"))
    tokenizer: Any = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.save_pretrained(folder / name)
