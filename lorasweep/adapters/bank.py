"""K slots on one frozen base, trained in one forward pass, each with an adapter of any method.

The base is frozen, so a slot's gradient in a packed pass equals its gradient alone. Adapters are stacked again
whenever a slot is added or removed, so a pass costs no more than its live slots need.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache

from torch import Tensor

from lorasweep.adapters.dropout import Noise, noise_of
from lorasweep.adapters.layout import Layout, runs_of
from lorasweep.adapters.linear import AdaptedLinear
from lorasweep.adapters.methods.method import Dims
from lorasweep.adapters.pass_size import WHOLE, PassSize
from lorasweep.adapters.slot import Slot, make_slot
from lorasweep.adapters.stacks import Group, arrange
from lorasweep.core.spec import AdapterSpec
from lorasweep.data.batches import MicroBatch, PackedBatch
from lorasweep.models.base import DTYPES, Base
from lorasweep.models.token_loss import label_nats

# K slots, T label positions

USUAL_TOKENS = 64  # of an average micro-batch, by default


class Bank:
    """The slots of a base. A second bank on the same base replaces the first."""

    def __init__(self, base: Base, num_slots: int) -> None:
        self.base = base
        self.num_slots = num_slots
        self.pass_size = PassSize(is_learning=base.device.type == "cpu")
        self.max_tokens = WHOLE if base.shortcuts.can_pad else 1  # of a pass; halved after out-of-memory
        self.is_frugal = False  # whether activations are recomputed because they do not fit
        self.layout = Layout()
        self.live: list[Slot] = []
        self._groups: list[Group] | None = []
        base.note_tokens = self.layout.note_tokens
        self._dims = cache(lambda target_modules: base.info.adapted(target_modules))  # equal shapes are one object
        unwrap(base)

    @property
    def num_free(self) -> int:
        return self.num_slots - len(self.live)

    @property
    def groups(self) -> list[Group]:
        """Return the slots in stacks, which are rebuilt after a slot was added or removed."""
        if self._groups is None:
            self._groups = arrange(self.live, self.base.info.linears, DTYPES[self.base.spec.dtype])
        return self._groups

    @property
    def slots(self) -> list[Slot]:
        """Return the live slots in the order of their stacks: in this order a pass needs the fewest operations."""
        return [slot for group in self.groups for slot in group.slots]

    def add(self, number: int, spec: AdapterSpec, seed: int, num_tokens: int = USUAL_TOKENS) -> Slot:
        """Put a new adapter into a free slot. `num_tokens` are those of its average micro-batch."""
        assert self.num_free > 0, number
        dims: Dims = self._dims(spec.target_modules)
        slot = make_slot(number, spec, seed, dims, num_tokens, self.base.device)
        slot.start({path: self._adapted(path).base for path in dims})
        self.live.append(slot)
        self._groups = None
        return slot

    def remove(self, slot: Slot) -> None:
        """Free a slot."""
        self.live.remove(slot)
        self._groups = None

    def shrink(self, batches: Sequence[MicroBatch]) -> bool:
        """After out-of-memory: halve the pass size, then recompute activations. Return False if both are exhausted."""
        if sum(len(batch.rows) for batch in batches) > 1:
            self.max_tokens = max(1, sum(batch.num_tokens for batch in batches) // 2)
            return True
        was_frugal, self.is_frugal = self.is_frugal, True
        if not was_frugal:
            self.set_mode(checkpointing=True)
        return not was_frugal

    def set_mode(self, *, checkpointing: bool) -> None:
        """Set training mode, which enables activation checkpointing; the base itself has no dropout."""
        model, wants = self.base.model, checkpointing or self.is_frugal
        if wants:
            model.activation_checkpointing_enable()  # type: ignore[operator]
        model.train(wants)

    def _adapted(self, path: str) -> AdaptedLinear:
        """Return the adapted linear at this path of the base; the first time it replaces the frozen one."""
        parent_path, _, name = path.rpartition(".")
        parent = self.base.model.get_submodule(parent_path)
        linear = getattr(parent, name)
        if not isinstance(linear, AdaptedLinear):
            linear = AdaptedLinear(linear, path, list(self.base.info.linears).index(path), self.layout)
            setattr(parent, name, linear)
        return linear

    def group_of(self, slot: Slot) -> Group:
        """Return the group that a slot is in."""
        return next(group for group in self.groups if slot in group.slots)

    @contextmanager
    def rows(
        self, blocks: Sequence[tuple[Slot, int]], noise: tuple[Noise, ...] = (), *, is_flat: bool = False
    ) -> Iterator[None]:
        """Assign the rows of the passes inside to slots, by (slot, number of rows) in order; of a flat batch tokens."""
        self.layout.is_flat, self.layout.noise = is_flat, noise
        self.layout.runs = runs_of(blocks, self.groups)
        self.layout.num_rows = sum(size for _, size in blocks)
        try:
            yield
        finally:
            self.layout.clear()

    def backward(
        self,
        slots: Sequence[Slot],
        batches: Sequence[MicroBatch],
        packed: PackedBatch,
        *,
        steps: Sequence[int],
        scale_K: Tensor,
    ) -> Tensor:
        """Add each slot's gradient, times its loss scale, to its stack, and return loss_K.

        A loss is in nats per label token, averaged over the slot's whole effective batch. The base is frozen, so the
        gradient of the summed losses is each slot's own. Checkpointed activations are recomputed in backward, so the
        layout stays set until it has ended.
        """
        sizes = [batch.num_tokens if packed.is_flat else len(batch.rows) for batch in batches]
        blocks = list(zip(slots, sizes, strict=True))
        noise = noise_of(blocks, batches, steps, is_flat=self.base.shortcuts.is_flat)
        with self.base.flat(packed), self.rows(blocks, noise, is_flat=packed.is_flat):
            nats_T = label_nats(self.base, packed)
            weighted_T = nats_T * packed.weight_T.to(nats_T.device)
            loss_K = nats_T.new_zeros(len(slots)).index_add(0, packed.slot_T.to(nats_T.device), weighted_T)
            (loss_K * scale_K.to(loss_K.device)).sum().backward()  # type: ignore[no-untyped-call]
        return loss_K.detach()

    def adapter(self, slot: Slot) -> dict[str, Tensor]:
        """Return a copy of a slot's adapter on the CPU, under the names and in the shapes of PEFT's state dict."""
        state = {}
        for path, tensors in slot.tensors.items():
            stored = slot.method.to_peft(tensors)
            for name, tensor in zip(_peft_names(slot, path), stored, strict=True):
                state[name] = tensor.detach().to("cpu", copy=True).contiguous()
        return state

    def load(self, slot: Slot, state: dict[str, Tensor]) -> None:
        """Copy a PEFT state dict into a slot.

        Raises:
            KeyError: a linear that the slot adapts has no tensors in `state`.
        """
        for path, tensors in slot.tensors.items():
            stored = slot.method.from_peft([state[name] for name in _peft_names(slot, path)])
            for tensor, values in zip(tensors, stored, strict=True):
                tensor.copy_(values)
        self.group_of(slot).publish(slot)


def _peft_names(slot: Slot, path: str) -> list[str]:
    return [f"base_model.model.{path}.{name}" for name in slot.method.peft_names]


def unwrap(base: Base) -> None:
    """Remove the adapters of any bank from the base."""
    for path in base.info.linears:
        parent_path, _, name = path.rpartition(".")
        parent = base.model.get_submodule(parent_path)
        linear = getattr(parent, name, None)
        if isinstance(linear, AdaptedLinear):
            setattr(parent, name, linear.base)
