"""Dropout per slot: the same masks alone or packed, when activations are recomputed, and after a restart."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lorasweep.adapters.slot import Slot
from lorasweep.data.batches import MicroBatch

# B rows, S tokens, D inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """A slot's dropout in one forward pass: the position of its rows (or tokens) and the seed of its masks.

    Masks are drawn for the whole micro-batch in `shape`, (tokens,) or (rows, tokens), of which the pass may hold a part
    from index `first` on. So they depend neither on a neighbour's longer rows nor on the size of the pass.
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
    """Return the dropout of a pass whose (slot, size) blocks are rows, or tokens of a flat batch."""
    parts, start = [], 0
    for (slot, size), batch, step in zip(blocks, batches, steps, strict=True):
        if rate := slot.method.dropout(slot.spec):
            seed = (slot.seed + 1) * 1_000_003 + step
            shape, first = _drawn(batch, is_flat=is_flat)
            parts.append(Noise(rate=rate, start=start, stop=start + size, shape=shape, first=first, seed=seed))
        start += size
    return tuple(parts)


def _drawn(batch: MicroBatch, *, is_flat: bool) -> tuple[tuple[int, ...], int]:
    """Return the shape of a whole micro-batch's masks, and the index in it where this part begins."""
    rows = batch.whole or batch.rows
    lengths = [len(row.ids) for row in rows]
    if is_flat:
        return (sum(lengths),), sum(lengths[: batch.first])
    return (len(rows), max(lengths)), batch.first


def dropout_mask(x_BSD: Tensor, noise: Sequence[Noise], index: int, *, is_flat: bool) -> Tensor:
    """Return a mask in the shape of x: 0 or 1/(1-p) in rows with dropout (arXiv 1207.0580), 1 elsewhere.

    Each mask is drawn from a new generator, seeded by the slot's seed, the step and the linear's index.
    """
    mask = torch.ones_like(x_BSD)
    for part in noise:
        generator = torch.Generator(x_BSD.device).manual_seed((part.seed * 8191 + index) & (2**63 - 1))
        whole = torch.empty(*part.shape, x_BSD.shape[-1], device=x_BSD.device)
        keep = whole.bernoulli_(1 - part.rate, generator=generator).div_(1 - part.rate)
        _place_noise(mask, keep, part, is_flat=is_flat)
    return mask


def _place_noise(mask_BSD: Tensor, keep: Tensor, part: Noise, *, is_flat: bool) -> None:
    """Copy the masks of a part's tokens to their place in the batch."""
    if is_flat:
        mask_BSD[0, part.start : part.stop] = keep[part.first : part.first + part.stop - part.start]
    elif len(part.shape) == 1:  # a base that takes rows end to end, and a single row
        mask_BSD[0, : keep.shape[0] - part.first] = keep[part.first : part.first + mask_BSD.shape[1]]
    else:
        width = min(mask_BSD.shape[1], keep.shape[1])
        mask_BSD[part.start : part.stop, :width] = keep[part.first : part.first + part.stop - part.start, :width]
