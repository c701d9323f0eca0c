"""The products of an adapted linear, forward and backward, as one node of autograd.

For the rows of slot k: y = base(x) + scale_k * (dropout_k(x) A_k^T) B_k   (arXiv 2106.09685, equation 3). The base's
product runs once over all rows; the adapters run as one batched product per group of slots.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lorasweep.adapters.layout import Run

# k slots of a run, R rank, D inputs, O outputs, M tokens of the longest slot; B rows, S tokens, N = B * S


@dataclass(frozen=True, slots=True)
class Adapters:
    """One linear's adapters in a pass. Tensors are handed in: what is kept for backward is autograd's to keep."""

    path: str
    runs: Sequence[Run]
    unit: int

    def add(self, y_NO: Tensor, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Add the adapters' output on inputs x_kMD to the base's; return the hidden h_kMR of each run."""
        hidden = []
        for run, x_kMD in zip(self.runs, inputs, strict=True):
            a, b, scale = self._weights(run)
            h_kMR = torch.bmm(x_kMD, a.transpose(1, 2)).mul_(scale)
            run.add_product(y_NO, h_kMR, b, self.unit)
            hidden.append(h_kMR)
        return hidden

    def backward(self, gy_NO: Tensor, gx_ND: Tensor | None, kept: Sequence[Tensor]) -> None:
        """Add the gradients of A and B to the groups' stacks, and that of the adapters' input to `gx_ND`."""
        inputs, hidden = kept[: len(self.runs)], kept[len(self.runs) :]
        for run, x_kMD, h_kMR in zip(self.runs, inputs, hidden, strict=True):
            a, b, scale = self._weights(run)
            gy_kMO = run.padded(gy_NO, self.unit).to(x_kMD.dtype)
            gh_kMR = torch.bmm(gy_kMO, b.transpose(1, 2)).mul_(scale)
            grad_a, grad_b = run.part(*run.group.grads[self.path])
            # Not baddbmm_: into a stack, whose matrices do not lie end to end, it multiplies slot by slot.
            grad_b.add_(torch.bmm(h_kMR.transpose(1, 2), gy_kMO))
            grad_a.add_(torch.bmm(gh_kMR.transpose(1, 2), x_kMD))
            if gx_ND is not None:
                run.add_product(gx_ND, gh_kMR, a, self.unit)

    def _weights(self, run: Run) -> tuple[Tensor, Tensor, Tensor]:
        a_kRD, b_kRO, scale_k11 = run.part(*run.group.weights[self.path], run.group.scale_k11)
        return a_kRD, b_kRO, scale_k11


class AdaptedProduct(torch.autograd.Function):
    """x W^T + bias + adapters, in one node: the frozen weight asks for no gradient, and x's is summed in place."""

    @staticmethod
    def forward(
        ctx: Any,
        x_BSD: Tensor,
        weight_OD: Tensor,
        bias: Tensor | None,
        _anchor: Tensor,
        adapters: Adapters,
        mask_ND: Tensor | None,
        *inputs: Tensor,
    ) -> Tensor:
        y_BSO = F.linear(x_BSD, weight_OD, bias)
        hidden = adapters.add(y_BSO.view(-1, y_BSO.shape[-1]), inputs)
        ctx.save_for_backward(weight_OD, mask_ND, *inputs, *hidden)
        ctx.adapters = adapters
        return y_BSO

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        weight_OD, mask_ND, *kept = ctx.saved_tensors
        gy_BSO = grads[0].contiguous()
        gx_BSD = torch.matmul(gy_BSO, weight_OD) if ctx.needs_input_grad[0] else None
        _backward(ctx.adapters, gy_BSO, gx_BSD, mask_ND, kept)
        return gx_BSD, *[None] * (len(ctx.needs_input_grad) - 1)


class AddAdapters(torch.autograd.Function):
    """Add the adapters' output to a base's that was computed by a layer with a product of its own."""

    @staticmethod
    def forward(
        ctx: Any,
        x_BSD: Tensor,
        y_BSO: Tensor,
        _anchor: Tensor,
        adapters: Adapters,
        mask_ND: Tensor | None,
        *inputs: Tensor,
    ) -> Tensor:
        if y_BSO._is_view():  # int8 layers return views, which must not be changed in place
            y_BSO = y_BSO.clone()
        else:
            ctx.mark_dirty(y_BSO)
        hidden = adapters.add(y_BSO.view(-1, y_BSO.shape[-1]), inputs)
        ctx.save_for_backward(mask_ND, *inputs, *hidden)
        ctx.adapters, ctx.shape, ctx.dtype = adapters, x_BSD.shape, x_BSD.dtype
        return y_BSO

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        mask_ND, *kept = ctx.saved_tensors
        gy_BSO = grads[0].contiguous()
        gx_BSD = gy_BSO.new_zeros(ctx.shape, dtype=ctx.dtype) if ctx.needs_input_grad[0] else None
        _backward(ctx.adapters, gy_BSO, gx_BSD, mask_ND, kept)
        return gx_BSD, gy_BSO, *[None] * (len(ctx.needs_input_grad) - 2)


def _backward(
    adapters: Adapters, gy_BSO: Tensor, gx_BSD: Tensor | None, mask_ND: Tensor | None, kept: Sequence[Tensor]
) -> None:
    """Run the adapters' backward; what comes back through dropout passes its mask before it joins x's gradient."""
    gx_ND = None if gx_BSD is None else gx_BSD.flatten(0, 1)
    through = gx_ND if gx_ND is None or mask_ND is None else torch.zeros_like(gx_ND)
    adapters.backward(gy_BSO.flatten(0, 1), through, kept)
    if gx_ND is not None and through is not None and mask_ND is not None:
        gx_ND.addcmul_(through, mask_ND)
