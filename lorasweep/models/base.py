"""A frozen base in memory, and its logits at selected positions."""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lorasweep.core.spec import ModelSpec
from lorasweep.data.batches import PackedBatch
from lorasweep.models import varlen_attention
from lorasweep.models.shape import BaseInfo
from lorasweep.models.shortcuts import Shortcuts

# B rows, S tokens, T label positions, D width, V vocabulary

LIBC = ctypes.CDLL(None)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def _ignore(_num_tokens: int) -> None:
    """Do nothing: the base has no bank yet."""


@dataclass(slots=True)
class Base:
    """A frozen model in memory."""

    model: nn.Module
    tokenizer: Any
    info: BaseInfo
    spec: ModelSpec
    device: torch.device
    shortcuts: Shortcuts = field(default_factory=Shortcuts)  # those that give the same numbers as plain passes
    has_plain_head: bool = False  # whether logits are the head's product without any further operation
    note_tokens: Callable[[int], None] = _ignore  # called before each pass with its number of tokens
    _gather: tuple[Tensor, Tensor] | None = None

    @property
    def pad_id(self) -> int:
        return int(self.tokenizer.pad_token_id)

    def label_logits(self, ids_BS: Tensor, row_T: Tensor, column_T: Tensor) -> Tensor:
        """Return logits_TV at these positions only; logits of prompt tokens are never computed."""
        return self._logits((row_T, column_T), input_ids=ids_BS)

    def packed_logits(self, packed: PackedBatch) -> Tensor:
        """Return logits_TV at a batch's label positions."""
        return self._logits((packed.row_T, packed.column_T), **self._inputs(packed))

    def packed_hidden(self, packed: PackedBatch) -> Tensor:
        """Return the input of the head at a batch's label positions, hidden_TD."""
        hidden_BSD: Tensor = self.model.base_model(use_cache=False, **self._inputs(packed)).last_hidden_state  # type: ignore[operator]
        return hidden_BSD[packed.row_T, packed.column_T]

    def tree_logits(
        self, ids_BS: Tensor, positions_BS: Tensor, mask_B1SS: Tensor, row_T: Tensor, column_T: Tensor
    ) -> Tensor:
        """Return logits_TV of rows with a mask per token pair, passed as `shortcuts.option_form` says."""
        assert self.shortcuts.option_form in ("layout", "mask", "bias"), self.shortcuts.option_form
        mask: Tensor = mask_B1SS
        if self.shortcuts.option_form == "layout":
            mask = torch.ones_like(ids_BS, dtype=torch.bool)
        elif self.shortcuts.option_form == "bias":
            dtype = DTYPES[self.spec.dtype]
            mask = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)
        tree = varlen_attention.Tree(positions_BS, mask_B1SS[:, 0]) if self.shortcuts.option_form == "layout" else None
        with varlen_attention.laid_out(tree):
            return self._logits((row_T, column_T), input_ids=ids_BS, position_ids=positions_BS, attention_mask=mask)

    @property
    def option_logits(self) -> dict[str, Any]:
        """Return the argument of `option_choices` that makes a question's options share one pass; empty if none can."""
        if self.shortcuts.option_form == "cache":
            return {"cached_logits": self.cached_logits}
        return {} if self.shortcuts.option_form == "none" else {"tree_logits": self.tree_logits}

    def cached_logits(self, ids_BS: Tensor, cache: Any) -> tuple[Tensor, Any]:
        """Return logits_BV after the last token, and the cache with these tokens; `cache` holds earlier tokens."""
        rows = torch.arange(len(ids_BS), device=ids_BS.device)
        self._gather = (rows, torch.full_like(rows, ids_BS.shape[1] - 1))
        try:
            found = self.model(use_cache=True, input_ids=ids_BS, past_key_values=cache)
        finally:
            self._gather = None
        return found.logits, found.past_key_values

    def _logits(self, gather: tuple[Tensor, Tensor], **inputs: Any) -> Tensor:
        self._gather = gather
        try:
            logits: Tensor = self.model(use_cache=False, **inputs).logits
        finally:
            self._gather = None
        return logits

    def _inputs(self, packed: PackedBatch) -> dict[str, Any]:
        """Return the model's arguments. For a flat batch the mask is all true; `flat` separates the rows."""
        if not packed.is_flat:
            return {"input_ids": packed.ids_BS}
        all_real = torch.ones_like(packed.ids_BS, dtype=torch.bool)
        return {"input_ids": packed.ids_BS, "position_ids": packed.position_BS, "attention_mask": all_real}

    @contextmanager
    def flat(self, packed: PackedBatch) -> Iterator[None]:
        """Separate the rows of a flat batch in all passes inside this context, forward and backward."""
        rows = varlen_attention.Rows.of(list(packed.lengths)).to(self.device) if packed.is_flat else None
        with varlen_attention.laid_out(rows):
            yield

    def empty_cache(self) -> None:
        """Return unused memory to the device or the operating system."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        elif hasattr(LIBC, "malloc_trim"):  # glibc's heap keeps freed memory, which then counts as used
            LIBC.malloc_trim(0)

    def count_tokens(self, _module: nn.Module, args: tuple[Any, ...]) -> None:
        """Report the number of tokens of a pass; a hook of the input embeddings."""
        self.note_tokens(args[0].numel())

    def gather_hidden(self, _module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """Pass only the selected positions to the head, before any operation on logits; a hook of the head."""
        if self._gather is None:
            return None
        hidden_BSD = args[0]
        return (hidden_BSD[self._gather[0], self._gather[1]], *args[1:])
