"""Which rows of a batch belong to which slot. All adapted linears of a bank share one layout in a pass."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lorasweep.adapters.dropout import Noise, dropout_mask
from lorasweep.adapters.slot import Slot
from lorasweep.adapters.stacks import Group
from lorasweep.core.errors import ModelError

# k slots of a run, R rank, D inputs, M tokens of the longest slot; B rows, S tokens, N = B * S


@dataclass(eq=False, slots=True)
class Run:
    """Slots [first, last) of a group with adjacent rows: `sizes` rows each (of a flat batch: tokens) from `start`."""

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
        """Return the run's slots of tensors (k, ...) that are stacked for the whole group."""
        if len(self.sizes) == len(self.group.slots):
            return stacked
        return tuple(x[self.first : self.last] for x in stacked)

    def of(self, rows_NW: Tensor, unit: int) -> Tensor:
        """View the run's tokens, where a row has `unit` tokens."""
        return rows_NW[self.start * unit : (self.start + sum(self.sizes)) * unit]

    def padded(self, rows_NW: Tensor, unit: int) -> Tensor:
        """Return the run's tokens as (k, M, width), with zeros after shorter slots; a view if none is shorter."""
        mine_TW = self.of(rows_NW, unit)
        shape = (len(self.sizes), max(self.sizes) * unit, rows_NW.shape[-1])
        if self.is_even:
            return mine_TW.view(shape)
        padded = mine_TW.new_zeros(shape[0] * shape[1], shape[2])
        return padded.index_copy_(0, self._place(unit, rows_NW.device), mine_TW).view(shape)

    def add_product(self, rows_NW: Tensor, left_kMR: Tensor, right_kRW: Tensor, unit: int) -> None:
        """Add a batched product to the run's tokens, in place."""
        left_kMR, right_kRW = left_kMR.to(rows_NW.dtype), right_kRW.to(rows_NW.dtype)
        if self.is_even:
            self.padded(rows_NW, unit).baddbmm_(left_kMR, right_kRW)
        else:
            self.add(rows_NW, torch.bmm(left_kMR, right_kRW), unit)

    def add(self, rows_NW: Tensor, update_kMW: Tensor, unit: int) -> None:
        """Add to the run's tokens, in place."""
        if self.is_even:
            self.padded(rows_NW, unit).add_(update_kMW)
        else:
            place = self._place(unit, rows_NW.device)
            self.of(rows_NW, unit).add_(update_kMW.flatten(0, 1).index_select(0, place))

    def _place(self, unit: int, device: torch.device) -> Tensor:
        """Return the indices of the run's tokens among the padded ones."""
        if unit not in self._places:
            longest = max(self.sizes) * unit
            spans = [torch.arange(size * unit) + i * longest for i, size in enumerate(self.sizes)]
            self._places[unit] = torch.cat(spans).to(device)
        return self._places[unit]


def runs_of(blocks: Sequence[tuple[Slot, int]], groups: Sequence[Group]) -> list[Run]:
    """Merge (slot, size) blocks, in the order of the batch, into as few runs as possible."""
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


@dataclass(slots=True)
class Layout:
    """Which rows of the batch belong to which slot; of a flat batch, which tokens."""

    is_flat: bool = False
    num_rows: int = 0  # of the batch; of a flat batch, tokens
    num_tokens: int = 0  # of the batch, padding included; 0 before the embeddings have run
    runs: list[Run] = field(default_factory=list)
    noise: tuple[Noise, ...] = ()
    # Makes autograd call backward where neither x nor y needs a gradient, as in the first layer.
    anchor: Tensor = field(default_factory=lambda: torch.zeros((), requires_grad=True))
    _last: tuple[Tensor, dict[int, Tensor]] | None = None

    def clear(self) -> None:
        self.runs, self.noise, self._last, self.num_tokens = [], (), None, 0

    def batched(self, x: Tensor, path: str) -> Tensor:
        """View a linear's input as x_BSD, in the rows of the batch. Some layers pass all tokens end to end.

        Raises:
            ModelError: the linear gets other tokens than those of the batch, so their slots are unknown.
        """
        num_tokens = x.numel() // x.shape[-1]
        first = 1 if self.is_flat else self.num_rows
        # A row may have fewer or more tokens here than in the batch: the last one alone, or those of a cache too.
        has_rows = len(x) == first and not self.is_flat and x.dim() > 2
        if not has_rows and num_tokens != self.num_tokens:
            raise ModelError(
                f"lora.target_modules: {path} is given {num_tokens} of {self.num_tokens} tokens, so lorasweep cannot "
                "tell the trials of a batch apart there; leave this module out"
            )
        if x.dim() == 3 and len(x) == first:
            return x.contiguous()
        return x.reshape(first, num_tokens // first, x.shape[-1])

    def note_tokens(self, num_tokens: int) -> None:
        """Record how many tokens the current pass has."""
        self.num_tokens = num_tokens

    def unit(self, x_BSD: Tensor) -> int:
        """Return tokens per row."""
        return 1 if self.is_flat else x_BSD.shape[1]

    def inputs(self, x_BSD: Tensor, index: int, runs: Sequence[Run]) -> tuple[list[Tensor], Tensor | None]:
        """Return each run's padded input x_kMD, and the dropout mask_ND or None.

        Without dropout the linears with the same input, such as queries, keys and values, share its padded copy.
        """
        rows, unit = x_BSD.detach().flatten(0, 1).to(runs[0].group.weights_kP.dtype), self.unit(x_BSD)
        if self.noise:
            mask = dropout_mask(x_BSD, self.noise, index, is_flat=self.is_flat).flatten(0, 1).to(rows.dtype)
            dropped = rows * mask
            return [run.padded(dropped, unit) for run in runs], mask
        if self._last is None or self._last[0] is not x_BSD:
            self._last = (x_BSD, {})
        known = self._last[1]
        for run in runs:
            if run.start not in known:
                known[run.start] = run.padded(rows, unit)
        return [known[run.start] for run in runs], None
