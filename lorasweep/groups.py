"""Which slots multiply together: a group's adapters are stacked, and one batched product serves them all.

Of unequal slots the smaller are filled up with zeros, which costs products with zeros and saves operations; which of
the two is dearer decides who joins whom.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import inf

import torch

from lorasweep.slot import Dims, Matrices, Room, Slot

# k slots of a group, P numbers of its largest shape, R its largest rank, D inputs, O outputs

PRODUCTS = 6  # per adapted linear: two forward, four backward
# What one operation costs besides its arithmetic, in multiply-adds that the device could have done in that time.
OVERHEAD = {"cpu": 2_000_000, "cuda": 400_000_000}
MOST_PADDING = 4  # times its own size that a slot may be filled up to, beyond what is small anyway
SMALL = 4_000_000


class Group:
    """A stack of adapters in the type that they are multiplied in, and of their gradients in fp32."""

    def __init__(self, slots: Sequence[Slot], room: Room, dtype: torch.dtype) -> None:
        self.slots, self.room = tuple(slots), room
        device = slots[0].vector.device
        self.grads_kP = torch.empty(len(slots), room.size, device=device)
        self.weights_kP = torch.empty(len(slots), room.size, device=device, dtype=dtype)
        self.scale_k11 = torch.tensor([s.spec.scale for s in slots], device=device, dtype=dtype).view(-1, 1, 1)
        self.weights: Matrices = room.split(self.weights_kP)
        self.grads: Matrices = room.split(self.grads_kP)
        for slot, weights_P, grad_P in zip(slots, self.weights_kP, self.grads_kP, strict=True):
            slot.fit(room)
            weights_P.copy_(slot.vector.data)
            grad_P.copy_(slot.gradient)
            # In fp32 the stack itself is trained; otherwise it is a copy of what is trained in fp32.
            slot.place(weights_P if dtype == torch.float32 else slot.vector.data, grad_P)

    def publish(self, slot: Slot) -> None:
        """Bring the stack up to a slot's numbers, after they have changed."""
        if self.weights_kP.dtype != torch.float32:
            self.weights_kP[self.slots.index(slot)].copy_(slot.vector.data)


def arrange(slots: Sequence[Slot], every: Dims, dtype: torch.dtype) -> list[Group]:
    """Return the slots in groups that together cost least. `every` gives the order of linears."""
    if not slots:
        return []
    overhead = OVERHEAD.get(slots[0].vector.device.type, OVERHEAD["cuda"])
    orders = [
        sorted(slots, key=lambda s: (tuple(s.own.dims), s.spec.r, s.num_tokens)),
        sorted(slots, key=lambda s: (s.spec.r, tuple(s.own.dims), s.num_tokens)),
        sorted(slots, key=lambda s: (s.num_tokens, s.spec.r, tuple(s.own.dims))),
    ]
    plans = [(*_cheapest(order, overhead), order) for order in orders]
    _, cuts, order = min(plans, key=lambda plan: plan[0])
    groups = [order[i:j] for i, j in pairwise(cuts)]
    return [Group(group, _room(group, every), dtype) for group in groups]


def _cheapest(order: Sequence[Slot], overhead: int) -> tuple[float, list[int]]:
    """Cut an order into neighbours that cost least: dynamic programming over the last cut."""
    best: list[tuple[float, list[int]]] = [(0.0, [0])]
    for stop in range(1, len(order) + 1):
        found = [(best[i][0] + _cost(order[i:stop], overhead), [*best[i][1], stop]) for i in range(stop)]
        best.append(min(found))
    return best[-1]


def _cost(slots: Sequence[Slot], overhead: int) -> float:
    """Return multiply-adds of a group's products, with those of the zeros, and what its operations cost besides."""
    dims = {p: dim for shape in {id(s.own.dims): s.own.dims for s in slots}.values() for p, dim in shape.items()}
    room = Room(dims, max(s.own.rank for s in slots))
    if any(room.size > max(SMALL, MOST_PADDING * s.own.size) for s in slots):
        return inf
    tokens = max(s.num_tokens for s in slots)
    return PRODUCTS * len(dims) * overhead + PRODUCTS / 2 * len(slots) * tokens * room.size


def _room(slots: Sequence[Slot], every: Dims) -> Room:
    used = {path for slot in slots for path in slot.own.dims}
    return Room({path: dim for path, dim in every.items() if path in used}, max(s.own.rank for s in slots))
