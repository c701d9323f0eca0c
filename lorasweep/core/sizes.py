"""Sizes that the computation and the memory prediction share, and units of memory."""

from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

DTYPE_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}

# Maximum number of logits in memory during the loss. CPU: 8 MiB in fp32, about the size of its last-level cache; CUDA:
# large enough for efficient matrix products.
CHUNK_LOGITS = {"cpu": 1 << 21, "cuda": 1 << 27}


def for_device(table: Mapping[str, T], kind: str) -> T:
    """Return a device kind's entry; other accelerators use the entry for CUDA."""
    return table.get(kind, table["cuda"])


def chunk_rows(vocab_size: int, kind: str) -> int:
    """Return the maximum number of positions whose logits are in memory at a time."""
    return max(1, for_device(CHUNK_LOGITS, kind) // vocab_size)
