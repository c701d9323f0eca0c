"""Slots that multiply together: a group's adapters are stacked, and one batched product serves them all."""

from collections.abc import Sequence

import torch

from lorasweep.adapters.slot import Dims, Matrices, Room, Slot
from lorasweep.adapters.stack_plan import Member, stacks

# k slots of a group, P numbers of its largest shape, R its largest rank, D inputs, O outputs


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
    device = slots[0].vector.device.type
    groups = stacks(slots, lambda s: Member(s.own.dims, s.own.rank, s.num_tokens), device)
    return [Group(group, _room(group, every), dtype) for group in groups]


def _room(slots: Sequence[Slot], every: Dims) -> Room:
    used = {path for slot in slots for path in slot.own.dims}
    return Room({path: dim for path, dim in every.items() if path in used}, max(s.own.rank for s in slots))
