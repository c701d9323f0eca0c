"""Which adapters share a batched product. Planned from shapes alone, so that memory is predicted by the same plan.

Of unequal adapters the smaller are filled up with zeros, which costs products with zeros and saves operations; which
of the two costs more decides.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import inf
from typing import TypeVar

from lorasweep.core.sizes import for_device

T = TypeVar("T")

PRODUCTS = 6  # per adapted linear: two forward, four backward
# What one operation costs besides its arithmetic, in multiply-adds that the device could have done in that time.
OVERHEAD = {"cpu": 2_000_000, "cuda": 400_000_000}
MOST_PADDING = 4  # times its own size that an adapter may be filled up to, beyond what is small anyway
SMALL = 4_000_000


@dataclass(frozen=True, eq=False)
class Member:
    """What decides which stack an adapter belongs to; `num_tokens` are those of a usual micro-batch."""

    dims: Mapping[str, tuple[int, int]]  # adapted linears with their inputs and outputs
    rank: int
    num_tokens: int

    @cached_property
    def width(self) -> int:
        """Return the inputs and outputs of all adapted linears."""
        return sum(inputs + outputs for inputs, outputs in self.dims.values())


def may_be_padded(own: int, size: int) -> bool:
    """Tell whether an adapter of `own` numbers may be filled up to `size`."""
    return size <= max(SMALL, MOST_PADDING * own)


def stacks(items: Sequence[T], member_of: Callable[[T], Member], device: str) -> list[list[T]]:
    """Return the items in groups that together cost least on a kind of device."""
    overhead = for_device(OVERHEAD, device)
    pairs = [(member_of(item), item) for item in items]
    if len({(id(m.dims), m.rank, m.num_tokens) for m, _ in pairs}) == 1:
        return [list(items)]
    orders = [
        sorted(pairs, key=lambda p: (tuple(p[0].dims), p[0].rank, p[0].num_tokens)),
        sorted(pairs, key=lambda p: (p[0].rank, tuple(p[0].dims), p[0].num_tokens)),
        sorted(pairs, key=lambda p: (p[0].num_tokens, p[0].rank, tuple(p[0].dims))),
    ]
    plans = [(*_cheapest([member for member, _ in order], overhead), order) for order in orders]
    _, cuts, order = min(plans, key=lambda plan: plan[0])
    return [[item for _, item in order[i:j]] for i, j in pairwise(cuts)]


def _cheapest(order: Sequence[Member], overhead: int) -> tuple[float, list[int]]:
    """Cut an order into neighbours that cost least: dynamic programming over the last cut."""
    best: list[tuple[float, list[int]]] = [(0.0, [0])]
    for stop in range(1, len(order) + 1):
        found = [(best[i][0] + _cost(order[i:stop], overhead), [*best[i][1], stop]) for i in range(stop)]
        best.append(min(found))
    return best[-1]


def _cost(members: Sequence[Member], overhead: int) -> float:
    """Return multiply-adds of a stack's products, with those of the zeros, and what its operations cost besides."""
    first, shapes = members[0], {id(m.dims): m.dims for m in members}
    whole = first if len(shapes) == 1 else Member({p: d for s in shapes.values() for p, d in s.items()}, 0, 0)
    size = max(m.rank for m in members) * whole.width
    if not all(may_be_padded(m.rank * m.width, size) for m in members):
        return inf
    tokens = max(m.num_tokens for m in members)
    return PRODUCTS * len(whole.dims) * overhead + PRODUCTS / 2 * len(members) * tokens * size
