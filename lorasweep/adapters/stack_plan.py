"""Decide which adapters are stacked, from their shapes only, so that memory prediction uses the same plan.

In a stack the smaller adapters are padded with zeros. This costs products with zeros and saves operations; the plan
has the lowest total cost.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import inf
from typing import Any, TypeVar

from lorasweep.adapters.methods.method import Dims, Method
from lorasweep.core.sizes import for_device

T = TypeVar("T")

# Fixed cost of one operation, in multiply-adds that the device could do in the same time.
OVERHEAD = {"cpu": 2_000_000, "cuda": 400_000_000}
PASSES = 3  # multiply-adds per number and token: forward, gradient of the number, gradient of its input
MOST_PADDING = 4  # an adapter may be padded to this multiple of its size if the result is larger than SMALL
SMALL = 4_000_000


@dataclass(frozen=True, eq=False)
class Member:
    """The properties of an adapter that decide its stack. `num_tokens`: tokens of an average micro-batch."""

    method: Method[Any]
    dims: Dims
    rank: int
    num_tokens: int

    @cached_property
    def num_parameters(self) -> int:
        return self.method.num_parameters(self.dims, self.rank)

    @property
    def stackable(self) -> Hashable:
        """Return a key; only adapters with equal keys may be stacked."""
        shapes = () if self.method.can_pad else (tuple(self.dims), self.rank)
        return (self.method.name, shapes)


def may_be_padded(own: int, size: int) -> bool:
    """Return whether an adapter of `own` parameters may be padded to `size`."""
    return size <= max(SMALL, MOST_PADDING * own)


def stacks(items: Sequence[T], member_of: Callable[[T], Member], device: str) -> list[list[T]]:
    """Group the items into the stacks with the lowest total cost on a kind of device."""
    apart: dict[Hashable, list[tuple[Member, T]]] = {}
    for item in items:
        member = member_of(item)
        apart.setdefault(member.stackable, []).append((member, item))
    overhead = for_device(OVERHEAD, device)
    return [stack for pairs in apart.values() for stack in _stacks(pairs, overhead)]


def padded_sizes(members: Sequence[Member]) -> list[int]:
    """Return the largest size to which each adapter may be padded in a stack with the others."""
    sizes: dict[Hashable, int] = {}
    for key in {m.stackable for m in members}:
        alike = [m for m in members if m.stackable == key]
        sizes[key] = alike[0].method.num_parameters(_union(alike), max(m.rank for m in alike))
    own = [(m.num_parameters, sizes[m.stackable]) for m in members]
    return [largest if may_be_padded(size, largest) else size for size, largest in own]


def _stacks(pairs: Sequence[tuple[Member, T]], overhead: int) -> list[list[T]]:
    """Return the stacks of adapters with equal keys."""
    if len({(id(m.dims), m.rank, m.num_tokens) for m, _ in pairs}) == 1:
        return [[item for _, item in pairs]]
    orders = [
        sorted(pairs, key=lambda p: (tuple(p[0].dims), p[0].rank, p[0].num_tokens)),
        sorted(pairs, key=lambda p: (p[0].rank, tuple(p[0].dims), p[0].num_tokens)),
        sorted(pairs, key=lambda p: (p[0].num_tokens, p[0].rank, tuple(p[0].dims))),
    ]
    plans = [(*_cheapest([member for member, _ in order], overhead), order) for order in orders]
    _, cuts, order = min(plans, key=lambda plan: plan[0])
    return [[item for _, item in order[i:j]] for i, j in pairwise(cuts)]


def _cheapest(order: Sequence[Member], overhead: int) -> tuple[float, list[int]]:
    """Split a sequence into the stacks with the lowest total cost, by dynamic programming over the last split."""
    best: list[tuple[float, list[int]]] = [(0.0, [0])]
    for stop in range(1, len(order) + 1):
        found = [(best[i][0] + _cost(order[i:stop], overhead), [*best[i][1], stop]) for i in range(stop)]
        best.append(min(found))
    return best[-1]


def _cost(members: Sequence[Member], overhead: int) -> float:
    """Return the cost of a stack: multiply-adds, including those with zeros, and the overhead of its operations."""
    method, dims = members[0].method, _union(members)
    largest = max(members, key=lambda m: m.rank)
    # On equal linears the size is known; this is called for every pair of slots.
    size = largest.num_parameters if dims is largest.dims else method.num_parameters(dims, largest.rank)
    if not all(may_be_padded(m.num_parameters, size) for m in members):
        return inf
    tokens = max(m.num_tokens for m in members)
    return method.num_operations * len(dims) * overhead + PASSES * len(members) * tokens * size


def _union(members: Sequence[Member]) -> Dims:
    """Return the linears that at least one member adapts."""
    different = {id(m.dims): m.dims for m in members}
    if len(different) == 1:
        return members[0].dims
    return {path: size for dims in different.values() for path, size in dims.items()}
