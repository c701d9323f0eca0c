"""A frozen linear that carries one LoRA adapter per slot.

For the rows of slot k: y = base(x) + scale_k * (dropout_k(x) A_k^T) B_k   (arXiv 2106.09685, equation 3). The base's
product runs once over all rows; the adapters run as one batched product per run of slots that have equally many rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

# K slots, R largest rank, D inputs, O outputs; k slots of a run, M tokens of each of them; B rows, S tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Neighbouring slots [first, last) with `size` rows (or tokens) each, beginning at row (or token) `start`."""

    first: int
    last: int
    start: int
    size: int

    @property
    def stop(self) -> int:
        return self.start + (self.last - self.first) * self.size


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """A slot's dropout in one forward pass: where its rows (or tokens) are, and what seeds its masks.

    Padding beyond `length` draws no noise, so that a neighbour's longer rows change nothing.
    """

    rate: float
    start: int
    stop: int
    length: int
    seed: int


@dataclass(slots=True)
class Layout:
    """Which rows of the batch belong to which slot; of a flat batch, which tokens. All linears of a bank share one."""

    is_flat: bool = False
    runs: tuple[Run, ...] = ()
    noise: tuple[Noise, ...] = ()
    rank: int = 0
    scales_K: Tensor = field(default_factory=lambda: torch.zeros(0))


def runs_of(blocks: Sequence[tuple[int, int]]) -> tuple[Run, ...]:
    """Merge (slot, size) blocks, in their order in the batch, into as few runs as possible."""
    runs: list[Run] = []
    start = 0
    for slot, size in blocks:
        if runs and runs[-1].last == slot and runs[-1].size == size:
            runs[-1] = Run(first=runs[-1].first, last=slot + 1, start=runs[-1].start, size=size)
        elif size:
            runs.append(Run(first=slot, last=slot + 1, start=start, size=size))
        start += size
    return tuple(runs)


class AdaptedLinear(nn.Module):
    """A base linear with room for K adapters of rank up to R. What is not used stays exactly zero."""

    def __init__(
        self, base: nn.Module, dims: tuple[int, int], num_slots: int, rank: int, layout: Layout, index: int
    ) -> None:
        super().__init__()
        inputs, outputs = dims
        device = next(base.parameters()).device
        self.base = base
        self.layout = layout
        self.index = index
        self.uses: set[int] = set()
        # Rank comes first in both, so that a slot's own rank is a contiguous view of its share.
        self.a_KRD = nn.Parameter(torch.zeros(num_slots, rank, inputs, device=device))
        self.b_KRO = nn.Parameter(torch.zeros(num_slots, rank, outputs, device=device))
        self.grad_a_KRD = torch.zeros_like(self.a_KRD, requires_grad=False)
        self.grad_b_KRO = torch.zeros_like(self.b_KRO, requires_grad=False)

    def forward(self, x_BSD: Tensor) -> Tensor:
        y_BSO: Tensor = self.base(x_BSD)
        runs = tuple(run for run in self.layout.runs if not self.uses.isdisjoint(range(run.first, run.last)))
        if not runs:
            return y_BSO
        mask_BSD = dropout_mask(x_BSD, self.layout, self.index) if self.layout.noise else None
        # The anchor makes autograd call backward where neither x nor y needs a gradient, as in the first layer.
        result: Tensor = AdapterDelta.apply(  # type: ignore[no-untyped-call]
            x_BSD.contiguous(), y_BSO, self.a_KRD, self, runs, mask_BSD
        )
        return result


def dropout_mask(x_BSD: Tensor, layout: Layout, index: int) -> Tensor:
    """Return what x is multiplied with: 0 or 1/(1-p) in rows with dropout, 1 elsewhere.

    Each mask is drawn anew from (slot's seed, module), never from a running generator, so that it is the same alone or
    packed, when activations are computed again, and after a restart.
    """
    mask = torch.ones_like(x_BSD)
    for part in layout.noise:
        generator = torch.Generator(x_BSD.device).manual_seed((part.seed * 8191 + index) & (2**63 - 1))
        rows = mask[0, part.start : part.stop] if layout.is_flat else mask[part.start : part.stop, : part.length]
        keep = torch.empty(rows.shape, device=x_BSD.device).bernoulli_(1 - part.rate, generator=generator)
        rows.copy_(keep.div_(1 - part.rate))
    return mask


class AdapterDelta(torch.autograd.Function):
    """Add the adapters' output to the base's; gradients of A and B go straight into the bank's buffers."""

    @staticmethod
    def forward(
        ctx: Any,
        x_BSD: Tensor,
        y_BSO: Tensor,
        _anchor: Tensor,
        linear: AdaptedLinear,
        runs: tuple[Run, ...],
        mask: Tensor | None,
    ) -> Tensor:
        dropped = x_BSD if mask is None else x_BSD * mask
        if y_BSO._is_view():  # int8 layers return views, which must not be changed in place
            y_BSO = y_BSO.clone()
        else:
            ctx.mark_dirty(y_BSO)
        hidden = []
        for run in runs:
            a, b, scale = _weights(linear, run, x_BSD.dtype)
            h_kMR = torch.bmm(_block(dropped, run, linear.layout), a.transpose(1, 2)) * scale
            _block(y_BSO, run, linear.layout).baddbmm_(h_kMR.to(y_BSO.dtype), b.to(y_BSO.dtype))
            hidden.append(h_kMR)
        ctx.save_for_backward(x_BSD, *([] if mask is None else [mask]), *hidden)
        ctx.linear, ctx.runs, ctx.has_mask = linear, runs, mask is not None
        return y_BSO

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (gy_BSO,) = grads
        gy_BSO = gy_BSO.contiguous()
        x_BSD, *rest = ctx.saved_tensors
        mask, hidden = (rest[0], rest[1:]) if ctx.has_mask else (None, rest)
        dropped = x_BSD if mask is None else x_BSD * mask
        gx_BSD = torch.zeros_like(x_BSD) if ctx.needs_input_grad[0] else None
        for run, h_kMR in zip(ctx.runs, hidden, strict=True):
            a, b, scale = _weights(ctx.linear, run, x_BSD.dtype)
            gy_kMO = _block(gy_BSO, run, ctx.linear.layout).to(x_BSD.dtype)
            gh_kMR = torch.bmm(gy_kMO, b.transpose(1, 2)) * scale
            _add(ctx.linear.grad_b_KRO, run, torch.bmm(h_kMR.transpose(1, 2), gy_kMO))
            _add(ctx.linear.grad_a_KRD, run, torch.bmm(gh_kMR.transpose(1, 2), _block(dropped, run, ctx.linear.layout)))
            if gx_BSD is not None:
                _block(gx_BSD, run, ctx.linear.layout).copy_(torch.bmm(gh_kMR, a))
        if gx_BSD is not None and mask is not None:
            gx_BSD.mul_(mask)
        return gx_BSD, gy_BSO, None, None, None, None


def _weights(linear: AdaptedLinear, run: Run, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    rank = linear.layout.rank
    a = linear.a_KRD.detach()[run.first : run.last, :rank].to(dtype)
    b = linear.b_KRO.detach()[run.first : run.last, :rank].to(dtype)
    return a, b, linear.layout.scales_K[run.first : run.last].to(dtype).view(-1, 1, 1)


def _block(rows_BSD: Tensor, run: Run, layout: Layout) -> Tensor:
    """View a run's rows as (slots, tokens of each, width)."""
    width = rows_BSD.shape[-1]
    tokens = 1 if layout.is_flat else rows_BSD.shape[1]
    flat = rows_BSD.view(-1, width)[run.start * tokens : run.stop * tokens]
    return flat.view(run.last - run.first, run.size * tokens, width)


def _add(buffer_KRD: Tensor, run: Run, grad_kRD: Tensor) -> None:
    buffer_KRD[run.first : run.last, : grad_kRD.shape[1]] += grad_kRD
