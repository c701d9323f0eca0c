"""Turn token rows into batches of one slot, in an order that depends only on the trial's seed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from lorasweep.data.render import TokenRow

# B rows of one slot, S tokens, T label positions


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """Rows of one forward pass of a slot; the loss is averaged over the `num_labels` of the whole effective batch."""

    rows: tuple[TokenRow, ...]
    num_labels: int
    is_last: bool  # the optimizer steps after it
    whole: tuple[TokenRow, ...] = ()  # if this is a part of a micro-batch: all of its rows
    first: int = 0  # and the number of rows before this part

    @property
    def num_tokens(self) -> int:
        return sum(len(row.ids) for row in self.rows)


def micro_batches(
    rows: Sequence[TokenRow], *, batch_size: int, accumulation: int, seed: int, skip_steps: int = 0
) -> Iterator[MicroBatch]:
    """Yield micro-batches forever: each epoch in a new order, its last batch possibly smaller.

    `skip_steps` optimizer steps are skipped, so that a resumed trial continues with the right rows.
    """
    epoch, step = 0, 0
    while True:
        order = epoch_order(len(rows), seed, epoch)
        effective = batch_size * accumulation
        for start in range(0, len(order), effective):
            step += 1
            if step > skip_steps:
                chosen = [rows[i] for i in order[start : start + effective]]
                yield from _accumulate(chosen, batch_size)
        epoch += 1


def epoch_order(num_rows: int, seed: int, epoch: int) -> list[int]:
    """Return the order of rows of an epoch; trials with the same seed see the same order, so they are comparable."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order: list[int] = torch.randperm(num_rows, generator=generator).tolist()
    return order


def _accumulate(chosen: list[TokenRow], batch_size: int) -> Iterator[MicroBatch]:
    num_labels = sum(row.num_labels for row in chosen)
    for start in range(0, len(chosen), batch_size):
        part = tuple(chosen[start : start + batch_size])
        yield MicroBatch(rows=part, num_labels=num_labels, is_last=start + batch_size >= len(chosen))


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedBatch:
    """The rows of several slots, block after block.

    `ids_BS` holds padded rows, or a single row with all tokens end to end; `lengths` are the row lengths in both cases.
    `weight_T` turns summed label losses into each slot's mean.
    """

    ids_BS: Tensor
    lengths: tuple[int, ...]
    row_T: Tensor
    column_T: Tensor
    target_T: Tensor
    slot_T: Tensor
    weight_T: Tensor

    @property
    def is_flat(self) -> bool:
        return len(self.ids_BS) < len(self.lengths)

    def to(self, device: torch.device) -> "PackedBatch":
        """Return the same batch on another device."""
        tensors = [f.name for f in fields(self) if f.name != "lengths"]
        return replace(self, **{name: getattr(self, name).to(device) for name in tensors})

    @property
    def position_BS(self) -> Tensor:
        """Return each token's position in its row; for flat batches only."""
        return torch.cat([torch.arange(length) for length in self.lengths])[None].to(self.ids_BS.device)


def pack(batches: Sequence[MicroBatch], pad_id: int, *, flat: bool) -> PackedBatch:
    """Pack one micro-batch per slot: end to end if `flat`, else padded on the right, which a causal model ignores."""
    rows = [(slot, batch, row) for slot, batch in enumerate(batches) for row in batch.rows]
    lengths = [len(row.ids) for _, _, row in rows]
    flat = flat and len(rows) > 1
    width = sum(lengths) if flat else max(lengths)
    ids = torch.full((1 if flat else len(rows), width), pad_id, dtype=torch.long)
    places: list[tuple[int, int, int, int, float]] = []
    start = 0
    for b, (slot, batch, row) in enumerate(rows):
        at, first = (0, start) if flat else (b, 0)
        ids[at, first : first + len(row.ids)] = torch.tensor(row.ids)
        labels = [s for s in range(1, len(row.ids)) if row.is_label[s]]
        places += [(at, first + s - 1, row.ids[s], slot, 1.0 / batch.num_labels) for s in labels]
        start += len(row.ids)
    row_t, column, target, slot_of, weights = zip(*places, strict=True)
    return PackedBatch(
        ids_BS=ids,
        lengths=tuple(lengths),
        row_T=torch.tensor(row_t),
        column_T=torch.tensor(column),
        target_T=torch.tensor(target),
        slot_T=torch.tensor(slot_of),
        weight_T=torch.tensor(weights),
    )
