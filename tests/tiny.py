"""Tiny bases of several architectures on disk, and rows to train on."""

from functools import cache
from pathlib import Path
from typing import Any

import torch

from lorasweep.data.render import TokenRow

ARCHITECTURES = ("llama", "qwen2", "gpt2")
VOCAB = 96
# The linears that the presets name must be a multiple of 64 wide for 4-bit blocks.
WIDTH = 64


def config_of(kind: str) -> Any:
    """Return a two-layer configuration: grouped-query attention, tied embeddings if the architecture ties them."""
    from transformers import GPT2Config, LlamaConfig, Qwen2Config

    common: dict[str, Any] = {
        "vocab_size": VOCAB,
        "hidden_size": WIDTH,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    if kind == "llama":
        return LlamaConfig(**common, tie_word_embeddings=True)
    if kind == "qwen2":
        return Qwen2Config(**common, tie_word_embeddings=False)
    return GPT2Config(
        vocab_size=VOCAB,
        n_embd=WIDTH,
        n_layer=2,
        n_head=4,
        n_positions=128,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )


def tokenizer() -> Any:
    """Return a tokenizer of single characters."""
    from tokenizers import Tokenizer
    from tokenizers.decoders import Fuse
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<bos>", "<eos>", "<unk>", "\n", *(chr(c) for c in range(32, 32 + VOCAB - 5))]
    core = Tokenizer(WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = Split("", "isolated")
    core.decoder = Fuse()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=core, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>"
    )


def save_base(folder: Path, kind: str) -> Path:
    """Write a base of random weights with a head that is sharp enough for training."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config_of(kind))  # type: ignore[no-untyped-call]
    with torch.no_grad():
        model.get_output_embeddings().weight.normal_(0, 0.3)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


@cache
def token_rows(num: int = 40, seed: int = 0) -> tuple[TokenRow, ...]:
    """Return rows of different lengths, a quarter or so of each being labels."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(num):
        length = int(torch.randint(6, 20, (), generator=generator))
        prompt = int(torch.randint(2, length - 2, (), generator=generator))
        ids = torch.randint(4, VOCAB, (length,), generator=generator).tolist()
        labels = tuple(i >= prompt for i in range(length))
        rows.append(TokenRow(ids=tuple(ids), is_label=labels, prompt_length=prompt))
    return tuple(rows)
