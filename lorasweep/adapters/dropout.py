"""Dropout that is a slot's own: the same alone or packed, when activations are computed again, and after a restart."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lorasweep.adapters.slot import Slot
from lorasweep.data.batches import MicroBatch

# B rows, S tokens, D inputs


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


def noise_of(
    blocks: Sequence[tuple[Slot, int]], batches: Sequence[MicroBatch], steps: Sequence[int], *, is_flat: bool
) -> tuple[Noise, ...]:
    """Return the dropout of a pass in which each slot owns a block of so many rows (or tokens)."""
    parts, start = [], 0
    for (slot, size), batch, step in zip(blocks, batches, steps, strict=True):
        if slot.spec.lora_dropout:
            seed = (slot.seed + 1) * 1_000_003 + step
            shape, first = _drawn(batch, is_flat=is_flat)
            rate = slot.spec.lora_dropout
            parts.append(Noise(rate=rate, start=start, stop=start + size, shape=shape, first=first, seed=seed))
        start += size
    return tuple(parts)


def _drawn(batch: MicroBatch, *, is_flat: bool) -> tuple[tuple[int, ...], int]:
    """Return the shape that a micro-batch's masks are drawn in, whole, and where in it this part begins."""
    rows = batch.whole or batch.rows
    lengths = [len(row.ids) for row in rows]
    if is_flat:
        return (sum(lengths),), sum(lengths[: batch.first])
    return (len(rows), max(lengths)), batch.first


def dropout_mask(x_BSD: Tensor, noise: Sequence[Noise], index: int, *, is_flat: bool) -> Tensor:
    """Return what x is multiplied with: 0 or 1/(1-p) in rows with dropout, 1 elsewhere.

    Each mask is drawn anew from (slot's seed, module), never from a running generator.
    """
    mask = torch.ones_like(x_BSD)
    for part in noise:
        generator = torch.Generator(x_BSD.device).manual_seed((part.seed * 8191 + index) & (2**63 - 1))
        whole = torch.empty(*part.shape, x_BSD.shape[-1], device=x_BSD.device)
        keep = whole.bernoulli_(1 - part.rate, generator=generator).div_(1 - part.rate)
        _place_noise(mask, keep, part, is_flat=is_flat)
    return mask


def _place_noise(mask_BSD: Tensor, keep: Tensor, part: Noise, *, is_flat: bool) -> None:
    """Put the part's own share of a micro-batch's noise where its tokens are."""
    if is_flat:
        mask_BSD[0, part.start : part.stop] = keep[part.first : part.first + part.stop - part.start]
    elif len(part.shape) == 1:  # a base that takes rows end to end, and a single row
        mask_BSD[0, : keep.shape[0] - part.first] = keep[part.first : part.first + mask_BSD.shape[1]]
    else:
        width = min(mask_BSD.shape[1], keep.shape[1])
        mask_BSD[part.start : part.stop, :width] = keep[part.first : part.first + part.stop - part.start, :width]
