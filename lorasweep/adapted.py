"""A frozen linear that carries the LoRA adapters of all slots.

For the rows of slot k: y = base(x) + scale_k * (dropout_k(x) A_k^T) B_k   (arXiv 2106.09685, equation 3). The base's
product runs once over all rows; the adapters run as one batched product per group of slots.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lorasweep.groups import Group
from lorasweep.slot import Slot

# k slots of a run, R rank, D inputs, O outputs, M tokens of the longest slot; B rows, S tokens, N = B * S


@dataclass(eq=False, slots=True)
class Run:
    """Neighbours [first, last) of a group with `sizes` rows each (of a flat batch: tokens), from row `start` on."""

    group: Group
    first: int
    start: int
    sizes: list[int]
    _places: dict[int, Tensor] = field(default_factory=dict)

    @property
    def last(self) -> int:
        return self.first + len(self.sizes)

    @property
    def is_even(self) -> bool:
        return min(self.sizes) == max(self.sizes)

    def part(self, *stacked: Tensor) -> tuple[Tensor, ...]:
        """Return this run's slots of what is stacked for the whole group."""
        if len(self.sizes) == len(self.group.slots):
            return stacked
        return tuple(x[self.first : self.last] for x in stacked)

    def of(self, rows_NW: Tensor, unit: int) -> Tensor:
        """View this run's tokens, where a row has `unit` of them."""
        return rows_NW[self.start * unit : (self.start + sum(self.sizes)) * unit]

    def padded(self, rows_NW: Tensor, unit: int) -> Tensor:
        """Return this run's tokens as (k, M, width), with zeros behind those of shorter slots."""
        mine_TW = self.of(rows_NW, unit)
        shape = (len(self.sizes), max(self.sizes) * unit, rows_NW.shape[-1])
        if self.is_even:
            return mine_TW.view(shape)
        padded = mine_TW.new_zeros(shape[0] * shape[1], shape[2])
        return padded.index_copy_(0, self._place(unit, rows_NW.device), mine_TW).view(shape)

    def add_product(self, rows_NW: Tensor, left_kMR: Tensor, right_kRW: Tensor, unit: int) -> None:
        """Add a batched product to this run's tokens, in place."""
        left_kMR, right_kRW = left_kMR.to(rows_NW.dtype), right_kRW.to(rows_NW.dtype)
        if self.is_even:
            self.padded(rows_NW, unit).baddbmm_(left_kMR, right_kRW)
            return
        product = torch.bmm(left_kMR, right_kRW).flatten(0, 1)
        self.of(rows_NW, unit).add_(product.index_select(0, self._place(unit, rows_NW.device)))

    def _place(self, unit: int, device: torch.device) -> Tensor:
        """Return where this run's tokens are among the padded ones."""
        if unit not in self._places:
            longest = max(self.sizes) * unit
            spans = [torch.arange(size * unit) + i * longest for i, size in enumerate(self.sizes)]
            self._places[unit] = torch.cat(spans).to(device)
        return self._places[unit]


def runs_of(blocks: Sequence[tuple[Slot, int]], groups: Sequence[Group]) -> list[Run]:
    """Merge (slot, size) blocks, in their order in the batch, into as few runs as possible."""
    where = {slot: (group, index) for group in groups for index, slot in enumerate(group.slots)}
    runs: list[Run] = []
    start = 0
    for slot, size in blocks:
        group, index = where[slot]
        if runs and runs[-1].group is group and runs[-1].last == index:
            runs[-1].sizes.append(size)
        else:
            runs.append(Run(group, index, start, [size]))
        start += size
    return runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """A slot's dropout in one forward pass: where its rows (or tokens) are, and what seeds its masks.

    Masks are drawn for the whole micro-batch, in `shape` (tokens, or rows and their length), of which the pass may hold
    a part, from `first` on: neither a neighbour's longer rows nor a smaller pass change anything.
    """

    rate: float
    start: int
    stop: int
    shape: tuple[int, ...]
    first: int
    seed: int


@dataclass(slots=True)
class Layout:
    """Which rows of the batch belong to which slot; of a flat batch, which tokens. All linears of a bank share one."""

    is_flat: bool = False
    runs: list[Run] = field(default_factory=list)
    noise: tuple[Noise, ...] = ()
    # Makes autograd call backward where neither x nor y needs a gradient, as in the first layer.
    anchor: Tensor = field(default_factory=lambda: torch.zeros((), requires_grad=True))
    _last: tuple[Tensor, dict[int, Tensor]] | None = None

    def clear(self) -> None:
        self.runs, self.noise, self._last = [], (), None

    def unit(self, x_BSD: Tensor) -> int:
        """Return tokens per row."""
        return 1 if self.is_flat else x_BSD.shape[1]

    def inputs(self, x_BSD: Tensor, index: int, runs: Sequence[Run]) -> tuple[list[Tensor], Tensor | None]:
        """Return each run's padded input, and the dropout mask. Queries, keys and values share what they can."""
        rows, unit = x_BSD.detach().flatten(0, 1).to(runs[0].group.weights_kP.dtype), self.unit(x_BSD)
        if self.noise:
            mask = dropout_mask(x_BSD, self, index).flatten(0, 1).to(rows.dtype)
            dropped = rows * mask
            return [run.padded(dropped, unit) for run in runs], mask
        if self._last is None or self._last[0] is not x_BSD:
            self._last = (x_BSD, {})
        known = self._last[1]
        for run in runs:
            if run.start not in known:
                known[run.start] = run.padded(rows, unit)
        return [known[run.start] for run in runs], None


def dropout_mask(x_BSD: Tensor, layout: Layout, index: int) -> Tensor:
    """Return what x is multiplied with: 0 or 1/(1-p) in rows with dropout, 1 elsewhere.

    Each mask is drawn anew from (slot's seed, module), never from a running generator, so that it is the same alone or
    packed, when activations are computed again, and after a restart.
    """
    mask = torch.ones_like(x_BSD)
    for part in layout.noise:
        generator = torch.Generator(x_BSD.device).manual_seed((part.seed * 8191 + index) & (2**63 - 1))
        whole = torch.empty(*part.shape, x_BSD.shape[-1], device=x_BSD.device)
        keep = whole.bernoulli_(1 - part.rate, generator=generator).div_(1 - part.rate)
        _place_noise(mask, keep, part, layout)
    return mask


def _place_noise(mask_BSD: Tensor, keep: Tensor, part: Noise, layout: Layout) -> None:
    """Put the part's own share of a micro-batch's noise where its tokens are."""
    if layout.is_flat:
        mask_BSD[0, part.start : part.stop] = keep[part.first : part.first + part.stop - part.start]
    elif len(part.shape) == 1:  # a base that takes rows end to end, and a single row
        mask_BSD[0, : keep.shape[0] - part.first] = keep[part.first : part.first + mask_BSD.shape[1]]
    else:
        width = min(mask_BSD.shape[1], keep.shape[1])
        mask_BSD[part.start : part.stop, :width] = keep[part.first : part.first + part.stop - part.start, :width]


class AdaptedLinear(nn.Module):
    """A base linear that adds the products of whichever slots adapt it."""

    def __init__(self, base: nn.Module, path: str, index: int, layout: Layout) -> None:
        super().__init__()
        self.base = base
        self.path = path
        self.index = index
        self.layout = layout

    def forward(self, x_BSD: Tensor) -> Tensor:
        runs = [run for run in self.layout.runs if self.path in run.group.weights]
        if not runs:
            y_BSO: Tensor = self.base(x_BSD)
            return y_BSO
        x_BSD = x_BSD.contiguous()
        inputs, mask_ND = self.layout.inputs(x_BSD, self.index, runs)
        adapters = Adapters(self.path, runs, self.layout.unit(x_BSD))
        weight_OD = _plain_weight(self.base)
        if weight_OD is None:
            result: Tensor = AddAdapters.apply(  # type: ignore[no-untyped-call]
                x_BSD, self.base(x_BSD), self.layout.anchor, adapters, mask_ND, *inputs
            )
        else:
            result = AdaptedProduct.apply(  # type: ignore[no-untyped-call]
                x_BSD, weight_OD, self.base.bias, self.layout.anchor, adapters, mask_ND, *inputs
            )
        return result


def _plain_weight(base: nn.Module) -> Tensor | None:
    """Return the weight_OD of a linear whose product is an ordinary one; a quantised layer has its own."""
    if type(base) is nn.Linear:
        return base.weight
    return base.weight.t() if type(base).__name__ == "Conv1D" else None  # type: ignore[operator]


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
