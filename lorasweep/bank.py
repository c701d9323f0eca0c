"""K LoRA slots on one frozen base, trained in one forward pass.

The base is frozen, so a slot's gradient in a packed pass is exactly what it would be alone. Live slots stay side by
side: when one is freed, the last moves into its place.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lorasweep.adapted import AdaptedLinear, Layout, Noise, runs_of
from lorasweep.data.batches import MicroBatch, PackedBatch
from lorasweep.model import Base
from lorasweep.spec import LoraSpec

# K slots, T label positions, V vocabulary


@dataclass(eq=False, slots=True)
class Slot:
    """A place for one adapter. `parameters` are views of the bank's memory, of the slot's own rank and modules."""

    number: int
    spec: LoraSpec
    seed: int
    index: int
    parameters: dict[str, tuple[nn.Parameter, nn.Parameter]] = field(default_factory=dict)

    @property
    def tensors(self) -> list[nn.Parameter]:
        return [p for pair in self.parameters.values() for p in pair]

    @property
    def num_trainable(self) -> int:
        return sum(p.numel() for p in self.tensors)


class Bank:
    """The slots of a base. `rank` is the largest there will be, `modules` every target that there will be."""

    def __init__(self, base: Base, num_slots: int, rank: int, target_modules: tuple[str, ...]) -> None:
        self.base = base
        self.num_slots = num_slots
        self.layout = Layout(scales_K=torch.zeros(num_slots, device=base.device))
        self.linears = _adapt(base, num_slots, rank, target_modules, self.layout)
        self.slots: list[Slot] = []

    @property
    def num_free(self) -> int:
        return self.num_slots - len(self.slots)

    def add(self, number: int, spec: LoraSpec, seed: int) -> Slot:
        """Put a fresh adapter into a free slot: A drawn as PEFT draws it, B zero, so that it changes nothing yet."""
        assert self.num_free > 0, number
        slot = Slot(number=number, spec=spec, seed=seed, index=len(self.slots))
        self.slots.append(slot)
        generator = torch.Generator().manual_seed(seed)
        for path in self.base.info.adapted(spec.target_modules):
            linear = self.linears[path]
            linear.uses.add(slot.index)
            pair = (
                nn.Parameter(linear.a_KRD.data[slot.index, : spec.r]),
                nn.Parameter(linear.b_KRO.data[slot.index, : spec.r]),
            )
            a_RD = torch.empty(pair[0].shape)
            nn.init.kaiming_uniform_(a_RD, a=math.sqrt(5), generator=generator)
            pair[0].data.copy_(a_RD)
            pair[1].data.zero_()
            slot.parameters[path] = pair
        self._point(slot)
        return slot

    def remove(self, slot: Slot) -> None:
        """Free a slot; the last live one moves into its place, its parameters staying the same objects."""
        last = self.slots.pop()
        hole = slot.index
        for linear in self.linears.values():
            _move(linear, last.index, hole)
        if last is not slot:
            last.index = hole
            self.slots[hole] = last
            self._point(last)

    def _point(self, slot: Slot) -> None:
        """Point a slot's parameters and gradients at its place in the bank's memory."""
        rank = slot.spec.r
        for path, pair in slot.parameters.items():
            linear = self.linears[path]
            places = ((linear.a_KRD, linear.grad_a_KRD), (linear.b_KRO, linear.grad_b_KRO))
            for parameter, (values, grads) in zip(pair, places, strict=True):
                parameter.data = values.data[slot.index, :rank]
                parameter.grad = grads[slot.index, :rank]
        self.layout.scales_K[slot.index] = slot.spec.scale
        self.layout.rank = max(s.spec.r for s in self.slots)

    @contextmanager
    def rows(
        self, blocks: Sequence[tuple[Slot, int]], noise: tuple[Noise, ...] = (), *, is_flat: bool = False
    ) -> Iterator[None]:
        """Say, for the passes inside, which slot owns how many rows (of a flat batch: tokens), in their order."""
        self.layout.is_flat = is_flat
        self.layout.runs = runs_of([(slot.index, rows) for slot, rows in blocks])
        self.layout.noise = noise
        self.layout.rank = max((s.spec.r for s in self.slots), default=0)
        try:
            yield
        finally:
            self.layout.runs, self.layout.noise = (), ()

    def backward(
        self,
        slots: Sequence[Slot],
        batches: Sequence[MicroBatch],
        packed: PackedBatch,
        *,
        steps: Sequence[int],
        scale_K: Tensor,
    ) -> Tensor:
        """Add each slot's gradient, times its loss scale, to its buffers, and return loss_K.

        A loss is nats per label token, averaged over the slot's whole effective batch. The base is frozen, so the
        gradient of the summed losses is each slot's own. Checkpointed activations are computed again in backward,
        hence both passes see the same layout.
        """
        sizes = [batch.num_tokens if packed.is_flat else len(batch.rows) for batch in batches]
        blocks = list(zip(slots, sizes, strict=True))
        with self.rows(blocks, _noise(blocks, batches, steps), is_flat=packed.is_flat):
            loss_K = self._losses(len(slots), packed)
            (loss_K * scale_K.to(loss_K.device)).sum().backward()  # type: ignore[no-untyped-call]
        return loss_K.detach()

    def _losses(self, num_slots: int, packed: PackedBatch) -> Tensor:
        device = self.base.device
        row_T, column_T = packed.row_T.to(device), packed.column_T.to(device)
        if packed.is_flat:
            logits_TV = self.base.flat_logits(
                packed.ids_BS.to(device), packed.position_BS.to(device), packed.lengths, column_T
            )
        else:
            logits_TV = self.base.label_logits(packed.ids_BS.to(device), row_T, column_T)
        nats_T = nn.functional.cross_entropy(logits_TV.float(), packed.target_T.to(device), reduction="none")
        loss_K = torch.zeros(num_slots, device=device)
        return loss_K.index_add(0, packed.slot_T.to(device), nats_T * packed.weight_T.to(device))

    def adapter(self, slot: Slot) -> dict[str, Tensor]:
        """Return a slot's adapter under the names and in the shapes of PEFT's state dict."""
        state = {}
        for path, (a_RD, b_RO) in slot.parameters.items():
            state[f"base_model.model.{path}.lora_A.weight"] = a_RD.detach().cpu().clone()
            state[f"base_model.model.{path}.lora_B.weight"] = b_RO.detach().t().contiguous().cpu()
        return state

    def load(self, slot: Slot, state: dict[str, Tensor]) -> None:
        """Put a PEFT state dict into a slot."""
        for path, (a_RD, b_RO) in slot.parameters.items():
            a_RD.data.copy_(state[f"base_model.model.{path}.lora_A.weight"])
            b_RO.data.copy_(state[f"base_model.model.{path}.lora_B.weight"].t())


def _adapt(
    base: Base, num_slots: int, rank: int, target_modules: tuple[str, ...], layout: Layout
) -> dict[str, AdaptedLinear]:
    linears = {}
    for index, (path, dims) in enumerate(base.info.adapted(target_modules).items()):
        parent_path, _, name = path.rpartition(".")
        parent = base.model.get_submodule(parent_path)
        original = getattr(parent, name)
        # A second bank on the same base replaces the first.
        original = original.base if isinstance(original, AdaptedLinear) else original
        linears[path] = AdaptedLinear(original, dims, num_slots, rank, layout, index)
        setattr(parent, name, linears[path])
    return linears


def _move(linear: AdaptedLinear, source: int, hole: int) -> None:
    """Move one adapter with its gradients, and leave zeros: an unused place must add nothing."""
    for buffer in (linear.a_KRD.data, linear.b_KRO.data, linear.grad_a_KRD, linear.grad_b_KRO):
        buffer[hole] = buffer[source]
        buffer[source] = 0
    linear.uses.discard(hole)
    if source in linear.uses:
        linear.uses.remove(source)
        linear.uses.add(hole)


def _noise(
    blocks: Sequence[tuple[Slot, int]], batches: Sequence[MicroBatch], steps: Sequence[int]
) -> tuple[Noise, ...]:
    parts, start = [], 0
    for (slot, size), batch, step in zip(blocks, batches, steps, strict=True):
        if slot.spec.lora_dropout:
            seed = (slot.seed + 1) * 1_000_003 + step
            rate = slot.spec.lora_dropout
            parts.append(Noise(rate=rate, start=start, stop=start + size, length=batch.length, seed=seed))
        start += size
    return tuple(parts)
