"""The plain way to use a Hugging Face model: compute all logits, then select the needed ones."""

from __future__ import annotations

from torch import Tensor
from transformers import PreTrainedModel

from evaluation.scoring import LabelLogits


def label_logits_of(model: PreTrainedModel) -> LabelLogits:
    """Return a function for label logits, without attention mask: causal models ignore padding on the right."""

    def label_logits(input_ids_BS: Tensor, rows_T: Tensor, cols_T: Tensor) -> Tensor:
        logits_BSV: Tensor = model(input_ids=input_ids_BS, use_cache=False).logits
        return logits_BSV[rows_T, cols_T]

    return label_logits
