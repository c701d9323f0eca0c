"""Stack the adapters of a group of slots, so that one batched operation computes them all."""

from collections.abc import Sequence

import torch

from lorasweep.adapters.methods.method import Dims
from lorasweep.adapters.slot import Slot, Tensors, VectorLayout
from lorasweep.adapters.stack_plan import Member, stacks

# k slots of a group, P numbers of its layout


class Group:
    """Slots of one method with a common layout: their adapters in the type of the base, and gradients in fp32."""

    def __init__(self, slots: Sequence[Slot], layout: VectorLayout, dtype: torch.dtype) -> None:
        self.slots, self.layout, self.method = tuple(slots), layout, layout.method
        device = slots[0].vector.device
        self.grads_kP = torch.empty(len(slots), layout.size, device=device)
        self.weights_kP = torch.empty(len(slots), layout.size, device=device, dtype=dtype)
        self.weights: Tensors = layout.split(self.weights_kP)
        self.grads: Tensors = layout.split(self.grads_kP)
        self.constants = self.method.constants([slot.spec for slot in slots], self.weights_kP)
        for slot, weights_P, grad_P in zip(slots, self.weights_kP, self.grads_kP, strict=True):
            slot.change_layout(layout)
            weights_P.copy_(slot.vector.data)
            grad_P.copy_(slot.gradient)
            # In fp32 the stack itself is trained; otherwise it is a copy of the fp32 vector that is trained.
            slot.place(weights_P if dtype == torch.float32 else slot.vector.data, grad_P)

    def publish(self, slot: Slot) -> None:
        """Copy a slot's changed values into the stack."""
        if self.weights_kP.dtype != torch.float32:
            self.weights_kP[self.slots.index(slot)].copy_(slot.vector.data)


def arrange(slots: Sequence[Slot], every: Dims, dtype: torch.dtype) -> list[Group]:
    """Return the slots in the groups with the lowest total cost. `every` gives the order of linears."""
    if not slots:
        return []
    device = slots[0].vector.device.type
    groups = stacks(slots, lambda s: Member(s.method, s.own.dims, s.own.rank, s.num_tokens), device)
    return [Group(group, _layout(group, every), dtype) for group in groups]


def _layout(slots: Sequence[Slot], every: Dims) -> VectorLayout:
    """Return the smallest layout that can hold each of these adapters."""
    used = {path for slot in slots for path in slot.own.dims}
    dims = {path: dim for path, dim in every.items() if path in used}
    return VectorLayout(slots[0].method, dims, max(s.own.rank for s in slots))
