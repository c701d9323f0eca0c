"""K LoRA slots on one frozen base, trained in one forward pass.

The base is frozen, so a slot's gradient in a packed pass is exactly what it would be alone. What a pass costs follows
the live slots: whenever one comes or goes, adapters are stacked anew.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache

from torch import Tensor

from lorasweep.adapters.dropout import Noise, noise_of
from lorasweep.adapters.layout import Layout, runs_of
from lorasweep.adapters.linear import AdaptedLinear
from lorasweep.adapters.pass_size import WHOLE, Pace
from lorasweep.adapters.slot import Dims, Slot, make_slot
from lorasweep.adapters.stacks import Group, arrange
from lorasweep.core.spec import LoraSpec
from lorasweep.data.batches import MicroBatch, PackedBatch
from lorasweep.models.base import DTYPES, Base
from lorasweep.models.token_loss import label_nats

# K slots, T label positions

USUAL_TOKENS = 64  # of a micro-batch, where nobody says


class Bank:
    """The slots of a base. A second bank on the same base replaces the first."""

    def __init__(self, base: Base, num_slots: int) -> None:
        self.base = base
        self.num_slots = num_slots
        self.pace = Pace(is_learning=base.device.type == "cpu")
        self.most_tokens = (
            WHOLE if base.shortcuts.can_pad else 1
        )  # of a pass; less once one was too large for the device
        self.is_frugal = False  # keeps activations of one layer only, because nothing else fits
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
        """Return the slots in stacks, made anew where one has come or gone."""
        if self._groups is None:
            self._groups = arrange(self.live, self.base.info.linears, DTYPES[self.base.spec.dtype])
        return self._groups

    @property
    def slots(self) -> list[Slot]:
        """Return the live slots in the order in which they multiply with the fewest operations."""
        return [slot for group in self.groups for slot in group.slots]

    def add(self, number: int, spec: LoraSpec, seed: int, num_tokens: int = USUAL_TOKENS) -> Slot:
        """Put a fresh adapter into a free slot. `num_tokens` are those of its usual micro-batch."""
        assert self.num_free > 0, number
        dims: Dims = self._dims(spec.target_modules)
        self._wrap(dims)
        slot = make_slot(number, spec, seed, dims, num_tokens, self.base.device)
        self.live.append(slot)
        self._groups = None
        return slot

    def remove(self, slot: Slot) -> None:
        """Free a slot."""
        self.live.remove(slot)
        self._groups = None

    def shrink(self, batches: Sequence[MicroBatch]) -> bool:
        """Allow passes half as large as this one, which was too large; then spare activations. False: nothing helps."""
        if sum(len(batch.rows) for batch in batches) > 1:
            self.most_tokens = max(1, sum(batch.num_tokens for batch in batches) // 2)
            return True
        was_frugal, self.is_frugal = self.is_frugal, True
        if not was_frugal:
            self.set_mode(checkpointing=True)
        return not was_frugal

    def set_mode(self, *, checkpointing: bool) -> None:
        """Dropout of the base is off either way; training mode is what switches activation checkpointing on."""
        model, wants = self.base.model, checkpointing or self.is_frugal
        if wants:
            model.activation_checkpointing_enable()  # type: ignore[operator]
        model.train(wants)

    def _wrap(self, dims: Dims) -> None:
        """Give these linears of the base room for adapters."""
        for path in dims:
            parent_path, _, name = path.rpartition(".")
            parent = self.base.model.get_submodule(parent_path)
            original = getattr(parent, name)
            if not isinstance(original, AdaptedLinear):
                index = list(self.base.info.linears).index(path)
                setattr(parent, name, AdaptedLinear(original, path, index, self.layout))

    def group_of(self, slot: Slot) -> Group:
        """Return the stack that a slot is in."""
        return next(group for group in self.groups if slot in group.slots)

    @contextmanager
    def rows(
        self, blocks: Sequence[tuple[Slot, int]], noise: tuple[Noise, ...] = (), *, is_flat: bool = False
    ) -> Iterator[None]:
        """Say, for the passes inside, which slot owns how many rows (of a flat batch: tokens), in their order."""
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

        A loss is nats per label token, averaged over the slot's whole effective batch. The base is frozen, so the
        gradient of the summed losses is each slot's own. Checkpointed activations are computed again in backward,
        hence both passes see the same layout.
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
        """Return a slot's adapter under the names and in the shapes of PEFT's state dict."""
        state = {}
        for path, (a_RD, b_RO) in slot.matrices.items():
            state[f"base_model.model.{path}.lora_A.weight"] = a_RD.detach().cpu().clone()
            state[f"base_model.model.{path}.lora_B.weight"] = b_RO.detach().t().contiguous().cpu()
        return state

    def load(self, slot: Slot, state: dict[str, Tensor]) -> None:
        """Put a PEFT state dict into a slot."""
        for path, (a_RD, b_RO) in slot.matrices.items():
            a_RD.copy_(state[f"base_model.model.{path}.lora_A.weight"])
            b_RO.copy_(state[f"base_model.model.{path}.lora_B.weight"].t())
        self.group_of(slot).publish(slot)


def unwrap(base: Base) -> None:
    """Take another bank's adapters off the base."""
    for path in base.info.linears:
        parent_path, _, name = path.rpartition(".")
        parent = base.model.get_submodule(parent_path)
        linear = getattr(parent, name, None)
        if isinstance(linear, AdaptedLinear):
            setattr(parent, name, linear.base)
