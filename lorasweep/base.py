"""A frozen base in memory, and its logits at the positions that are asked for."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lorasweep import varlen
from lorasweep.base_info import BaseInfo
from lorasweep.data.batches import PackedBatch
from lorasweep.spec import ModelSpec

# B rows, S tokens, T label positions, D width, V vocabulary

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(slots=True)
class Base:
    """A frozen model in memory."""

    model: nn.Module
    tokenizer: Any
    info: BaseInfo
    spec: ModelSpec
    device: torch.device
    is_flat: bool = False  # whether rows of a training batch can lie end to end
    has_plain_head: bool = False  # whether logits are the head's product and nothing more
    _gather: tuple[Tensor, Tensor] | None = None

    @property
    def pad_id(self) -> int:
        return int(self.tokenizer.pad_token_id)

    def label_logits(self, ids_BS: Tensor, row_T: Tensor, column_T: Tensor) -> Tensor:
        """Return the logits_TV at these positions only: prompt tokens carry no loss, so theirs are never computed."""
        return self._logits((row_T, column_T), input_ids=ids_BS)

    def packed_logits(self, packed: PackedBatch) -> Tensor:
        """Return the logits_TV at a batch's label positions."""
        return self._logits((packed.row_T, packed.column_T), **self._inputs(packed))

    def packed_hidden(self, packed: PackedBatch) -> Tensor:
        """Return what the head is given at a batch's label positions, hidden_TD."""
        hidden_BSD: Tensor = self.model.base_model(use_cache=False, **self._inputs(packed)).last_hidden_state  # type: ignore[operator]
        return hidden_BSD[packed.row_T, packed.column_T]

    def tree_logits(
        self, ids_BS: Tensor, positions_BS: Tensor, mask_B1SS: Tensor, row_T: Tensor, column_T: Tensor
    ) -> Tensor:
        """Return logits_TV of rows whose tokens see what the mask says."""
        return self._logits((row_T, column_T), input_ids=ids_BS, position_ids=positions_BS, attention_mask=mask_B1SS)

    def _logits(self, gather: tuple[Tensor, Tensor], **inputs: Any) -> Tensor:
        self._gather = gather
        try:
            logits: Tensor = self.model(use_cache=False, **inputs).logits
        finally:
            self._gather = None
        return logits

    def _inputs(self, packed: PackedBatch) -> dict[str, Any]:
        """Return the model's arguments; rows of a flat batch do not see each other.

        A mask of four dimensions is passed on as it is; it keeps transformers from building one of T x T.
        """
        if not packed.is_flat:
            return {"input_ids": packed.ids_BS}
        return {
            "input_ids": packed.ids_BS,
            "position_ids": packed.position_BS,
            "attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool, device=self.device),
            "lorasweep_rows": varlen.Rows.of(list(packed.lengths)).to(self.device),
        }

    @property
    def can_mask_freely(self) -> bool:
        """Tell whether attention takes an arbitrary mask; fused kernels know causal ones only."""
        return bool(getattr(self.model.config, "_attn_implementation", "") in ("sdpa", varlen.NAME))

    def empty_cache(self) -> None:
        """Give the device back what no tensor holds any more."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def gather_hidden(self, _module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """Hand only the wanted positions to the head, before it and whatever the model does to its logits run."""
        if self._gather is None:
            return None
        hidden_BSD = args[0]
        return (hidden_BSD[self._gather[0], self._gather[1]], *args[1:])
