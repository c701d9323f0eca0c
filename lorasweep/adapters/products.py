"""An adapted linear, forward and backward, as one node of autograd.

The base's product runs once over all rows; each stack of adapters then works on its own rows (`methods`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lorasweep.adapters.layout import Run

# k slots of a run, D inputs, O outputs, M tokens of the longest slot; B rows, S tokens, N = B * S


@dataclass(slots=True)
class AdaptedRows:
    """The rows of one run at one linear, and the stacked tensors of the run's slots."""

    run: Run
    path: str
    unit: int  # tokens per row
    tensors: tuple[Tensor, ...]  # each (k, *shape), in the compute type
    constants: tuple[Tensor, ...]  # each (k, ...)
    num_kept: int = 0  # tensors that forward saved for backward

    @property
    def gradients(self) -> tuple[Tensor, ...]:
        """Return the accumulated gradients of `tensors`, in fp32."""
        return self.run.part(*self.run.group.grads[self.path])

    def padded(self, rows_NW: Tensor) -> Tensor:
        """Return the run's tokens as (k, M, width), padded with zeros after shorter slots.

        It is a view if all slots have equally many tokens.
        """
        return self.run.padded(rows_NW, self.unit)

    def add(self, rows_NW: Tensor, update_kMW: Tensor) -> None:
        """Add to the run's tokens, in place."""
        self.run.add(rows_NW, update_kMW, self.unit)

    def add_product(self, rows_NW: Tensor, left_kMR: Tensor, right_kRW: Tensor) -> None:
        """Add a batched product to the run's tokens, in place."""
        self.run.add_product(rows_NW, left_kMR, right_kRW, self.unit)


class Adapters:
    """One linear's adapters in a pass. Tensors are handed in: autograd keeps what backward needs."""

    def __init__(self, path: str, runs: Sequence[Run], unit: int) -> None:
        self.parts = [
            AdaptedRows(run, path, unit, run.part(*run.group.weights[path]), run.part(*run.group.constants))
            for run in runs
        ]

    def add(self, y_NO: Tensor, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Add the adapters' output on inputs x_kMD to the base's; return the tensors to keep for backward."""
        kept: list[Tensor] = []
        for rows, x_kMD in zip(self.parts, inputs, strict=True):
            found = rows.run.group.method.forward(rows, y_NO, x_kMD)
            rows.num_kept = len(found)
            kept += found
        return kept

    def base_gradient(self, gy_BSO: Tensor, kept: Sequence[Tensor]) -> Tensor:
        """Return the gradient of the base's output, given the gradient `gy_BSO` of the adapted output."""
        if not any(rows.run.group.method.changes_base_output for rows in self.parts):
            return gy_BSO
        gradient_BSO = gy_BSO.clone()
        for rows, _, own in self._kept(kept):
            rows.run.group.method.base_gradient(rows, gradient_BSO.flatten(0, 1), own)
        return gradient_BSO

    def backward(self, gy_NO: Tensor, gx_ND: Tensor | None, kept: Sequence[Tensor]) -> None:
        """Add the gradients of the tensors to the groups' stacks, and that of the adapters' input to `gx_ND`."""
        for rows, x_kMD, own in self._kept(kept):
            rows.run.group.method.backward(rows, gy_NO, gx_ND, x_kMD, own)

    def _kept(self, kept: Sequence[Tensor]) -> Iterator[tuple[AdaptedRows, Tensor, Sequence[Tensor]]]:
        """Yield each run with its input and the tensors that its forward kept."""
        start = len(self.parts)
        for rows, x_kMD in zip(self.parts, kept[:start], strict=True):
            yield rows, x_kMD, kept[start : start + rows.num_kept]
            start += rows.num_kept


class AdaptedProduct(torch.autograd.Function):
    """x W^T + bias + adapters, in one node: the frozen weight needs no gradient, and that of x is summed in place."""

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
        kept = adapters.add(y_BSO.view(-1, y_BSO.shape[-1]), inputs)
        ctx.save_for_backward(weight_OD, mask_ND, *inputs, *kept)
        ctx.adapters = adapters
        return y_BSO

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        weight_OD, mask_ND, *kept = ctx.saved_tensors
        gy_BSO = grads[0].contiguous()
        gx_BSD = None
        if ctx.needs_input_grad[0]:
            gx_BSD = torch.matmul(ctx.adapters.base_gradient(gy_BSO, kept), weight_OD)
        _backward(ctx.adapters, gy_BSO, gx_BSD, mask_ND, kept)
        return gx_BSD, *[None] * (len(ctx.needs_input_grad) - 1)


class AddAdapters(torch.autograd.Function):
    """Add the adapters' output to the output of a base layer that computes its own product, such as a quantised one."""

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
        kept = adapters.add(y_BSO.view(-1, y_BSO.shape[-1]), inputs)
        ctx.save_for_backward(mask_ND, *inputs, *kept)
        ctx.adapters, ctx.shape, ctx.dtype = adapters, x_BSD.shape, x_BSD.dtype
        return y_BSO

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        mask_ND, *kept = ctx.saved_tensors
        gy_BSO = grads[0].contiguous()
        gx_BSD = gy_BSO.new_zeros(ctx.shape, dtype=ctx.dtype) if ctx.needs_input_grad[0] else None
        _backward(ctx.adapters, gy_BSO, gx_BSD, mask_ND, kept)
        return gx_BSD, ctx.adapters.base_gradient(gy_BSO, kept), *[None] * (len(ctx.needs_input_grad) - 2)


def _backward(
    adapters: Adapters, gy_BSO: Tensor, gx_BSD: Tensor | None, mask_ND: Tensor | None, kept: Sequence[Tensor]
) -> None:
    """Run the adapters' backward; the gradient of a dropped-out input is masked before it is added to x's."""
    gx_ND = None if gx_BSD is None else gx_BSD.flatten(0, 1)
    through = gx_ND if gx_ND is None or mask_ND is None else torch.zeros_like(gx_ND)
    adapters.backward(gy_BSO.flatten(0, 1), through, kept)
    if gx_ND is not None and through is not None and mask_ND is not None:
        gx_ND.addcmul_(through, mask_ND)
