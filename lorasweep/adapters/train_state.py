"""The training state of one slot: its optimizer, its schedule, its position in the data, and its counters."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch.optim.lr_scheduler import LambdaLR

from lorasweep.adapters.schedules import make_schedule
from lorasweep.adapters.slot import Slot
from lorasweep.core.rungs import rung_at, rungs_of
from lorasweep.core.spec import EvalSpec, TrainSpec
from lorasweep.data.loader import BatchLoader
from lorasweep.data.render import TokenRow


@dataclass(slots=True)
class Partial:
    """The sums of an effective batch that is not complete yet."""

    loss: float = 0.0
    num_micro: int = 0  # complete micro-batches
    num_tokens: int = 0


@dataclass(eq=False, slots=True)
class TrainState:
    """The training state of one slot."""

    slot: Slot
    spec: TrainSpec
    optimizer: torch.optim.Optimizer
    schedule: LambdaLR
    scaler: torch.amp.GradScaler
    loader: BatchLoader
    num_steps: int
    rungs: tuple[int, ...]
    step: int = 0
    micro_step: int = 0
    loss: float = math.nan  # of the effective batch before the last optimizer step
    losses: list[tuple[int, float, float]] = field(default_factory=list)  # step, loss, learning rate
    num_tokens: int = 0
    train_s: float = 0.0  # of the steps it took part in, together with other slots
    partial: Partial = field(default_factory=Partial)

    @property
    def is_done(self) -> bool:
        return self.step >= self.num_steps

    def rewind(self) -> None:
        """Go back to the last optimizer step and discard what was accumulated after it."""
        self.micro_step -= self.partial.num_micro
        self.partial = Partial()
        self.slot.gradient.zero_()  # in place: it is a row of a stack
        self.loader.rewind(self.step)

    @property
    def rung(self) -> int:
        """Return the number of the rung at this step, counted from 1; 0 between rungs."""
        return rung_at(self.rungs, self.step)


def make_train_state(
    slot: Slot, spec: TrainSpec, rows: Sequence[TokenRow], evaluation: EvalSpec, dtype: str
) -> TrainState:
    """Return the training state at step 0. `evaluation` sets the steps of its rungs."""
    num_steps = spec.num_steps(len(rows))
    optimizer = slot.optimizer = OPTIMIZERS[spec.optim](slot, spec)
    return TrainState(
        slot=slot,
        spec=spec,
        optimizer=optimizer,
        schedule=make_schedule(spec.lr_scheduler_type, optimizer, spec.num_warmup_steps(num_steps), num_steps),
        # In fp16 small gradients vanish unless the loss is scaled; each slot finds its own scale.
        scaler=torch.amp.GradScaler(slot.vector.device.type, enabled=dtype == "fp16"),
        loader=BatchLoader(rows, spec),
        num_steps=num_steps,
        rungs=rungs_of(evaluation, num_steps),
    )


def usual_tokens(rows: Sequence[TokenRow], spec: TrainSpec) -> int:
    """Return the tokens of an average micro-batch."""
    batch = min(spec.per_device_train_batch_size, len(rows))
    return max(1, round(batch * sum(len(row.ids) for row in rows) / len(rows)))


def _adamw(slot: Slot, spec: TrainSpec) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        [slot.vector],
        lr=spec.learning_rate,
        betas=(spec.adam_beta1, spec.adam_beta2),
        eps=spec.adam_epsilon,
        weight_decay=spec.weight_decay,
        fused=True,
    )


def _paged_adamw_8bit(slot: Slot, spec: TrainSpec) -> torch.optim.Optimizer:
    from bitsandbytes.optim import PagedAdamW8bit

    warnings.filterwarnings("ignore", "Paged optimizers are not supported on CPU")  # there it runs unpaged
    optimizer: torch.optim.Optimizer = PagedAdamW8bit(
        slot.parameters,  # it quantises each tensor separately
        lr=spec.learning_rate,
        betas=(spec.adam_beta1, spec.adam_beta2),
        eps=spec.adam_epsilon,
        weight_decay=spec.weight_decay,
    )
    return optimizer


OPTIMIZERS = {"adamw": _adamw, "paged_adamw_8bit": _paged_adamw_8bit}


def mean_loss(state: TrainState, steps: int = 10) -> float:
    """Return the mean training loss of the last steps, nats per label token."""
    recent = [loss for _, loss, _ in state.losses[-steps:]]
    return sum(recent) / len(recent) if recent else math.nan
