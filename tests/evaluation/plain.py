"""The plain way to ask a Hugging Face model: all logits, of which those that are wanted are taken."""

from __future__ import annotations

from torch import Tensor
from transformers import PreTrainedModel

from evaluation.scoring import LabelLogits


def label_logits_of(model: PreTrainedModel) -> LabelLogits:
    """Return what the scores are computed from. No attention mask: causal models never look right, at padding."""

    def label_logits(input_ids_BS: Tensor, rows_T: Tensor, cols_T: Tensor) -> Tensor:
        logits_BSV: Tensor = model(input_ids=input_ids_BS, use_cache=False).logits
        return logits_BSV[rows_T, cols_T]

    return label_logits
