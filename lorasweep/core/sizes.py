"""Sizes that both the computation and the prediction of its memory go by, and units of memory."""

from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

DTYPE_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}

# Logits that the loss holds at a time. CPU: 8 MiB in fp32, about what its last cache holds; CUDA: large enough for its
# products.
CHUNK_LOGITS = {"cpu": 1 << 21, "cuda": 1 << 27}


def for_device(table: Mapping[str, T], kind: str) -> T:
    """Return a kind of device's entry; accelerators that have none are taken for CUDA's."""
    return table.get(kind, table["cuda"])


def chunk_rows(vocab_size: int, kind: str) -> int:
    """Return how many positions' logits the loss holds at a time."""
    return max(1, for_device(CHUNK_LOGITS, kind) // vocab_size)
