"""Training loss at label positions, without storing all their logits.

With a large vocabulary logits need the most memory: 10,000 label tokens and 128,000 words take 5 GB in fp32, three
times. Here logits are computed, turned into the gradient of the hidden states and freed, chunk by chunk, as in
arXiv 2410.10989 (Liger) and arXiv 2411.09009.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lorasweep.core.sizes import chunk_rows
from lorasweep.data.batches import PackedBatch
from lorasweep.models.base import Base

# T label positions, V vocabulary, D width; C positions of a chunk


def label_nats(base: Base, packed: PackedBatch) -> Tensor:
    """Return nats_T in fp32, the negative log-likelihood of each label token."""
    packed = packed.to(base.device)
    if not base.has_plain_head:
        return F.cross_entropy(base.packed_logits(packed).float(), packed.target_T, reduction="none")
    head: Any = base.model.get_output_embeddings()  # type: ignore[operator]
    nats_T: Tensor = HeadNats.apply(  # type: ignore[no-untyped-call]
        base.packed_hidden(packed), head.weight, head.bias, packed.target_T
    )
    return nats_T


class HeadNats(torch.autograd.Function):
    """-log softmax(h W^T + bias)[target] for a frozen head; forward also computes the gradient of h."""

    @staticmethod
    def forward(ctx: Any, hidden_TD: Tensor, weight_VD: Tensor, bias: Tensor | None, target_T: Tensor) -> Tensor:
        size = chunk_rows(len(weight_VD), hidden_TD.device.type)
        parts = [
            _chunk(h_CD, weight_VD, bias, target_C)
            for h_CD, target_C in zip(torch.split(hidden_TD, size), torch.split(target_T, size), strict=True)
        ]
        ctx.save_for_backward(torch.cat([grad_CD for _, grad_CD in parts]))
        return torch.cat([nats_C for nats_C, _ in parts])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad_TD,) = ctx.saved_tensors
        return (grad_TD * grads[0][:, None]).to(grad_TD.dtype), None, None, None


def _chunk(h_CD: Tensor, weight_VD: Tensor, bias: Tensor | None, target_C: Tensor) -> tuple[Tensor, Tensor]:
    """Return nats_C and d nats / d h: (softmax - one-hot of the target) W."""
    logits_CV = F.linear(h_CD, weight_VD, bias).float()
    total_C = logits_CV.logsumexp(dim=-1)
    index_C1 = target_C[:, None]
    nats_C = total_C - logits_CV.gather(1, index_C1)[:, 0]
    slope_CV = logits_CV.sub_(total_C[:, None]).exp_()
    slope_CV.scatter_add_(1, index_C1, slope_CV.new_full(index_C1.shape, -1.0))
    return nats_C, slope_CV.to(h_CD.dtype) @ weight_VD
