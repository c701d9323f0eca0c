"""Train the live slots of a bank, each by its own clock.

The one training path: a lone trial is a bank with one live slot.
"""

import math
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from lorasweep.bank import Bank
from lorasweep.data.batches import MicroBatch, micro_batches, pack
from lorasweep.data.render import TokenRow
from lorasweep.slot import Slot
from lorasweep.spec import TrainSpec


@dataclass(eq=False, slots=True)
class Learner:
    """What trains one slot: optimizer, schedule, data order, and how far it is."""

    slot: Slot
    spec: TrainSpec
    optimizer: torch.optim.Optimizer
    schedule: Any
    scaler: torch.amp.GradScaler
    batches: Iterator[MicroBatch]
    num_steps: int
    rungs: tuple[int, ...]
    step: int = 0
    micro_step: int = 0
    loss: float = math.nan  # of the effective batch before the last optimizer step
    losses: list[tuple[int, float, float]] = field(default_factory=list)  # step, loss, learning rate
    num_tokens: int = 0
    train_s: float = 0.0  # of the steps it took part in, neighbours included
    _partial: float = 0.0

    @property
    def is_done(self) -> bool:
        return self.step >= self.num_steps

    @property
    def rung(self) -> int:
        """Return the number of the rung that this step is, counting from 1; 0 between rungs."""
        return self.rungs.index(self.step) + 1 if self.step in self.rungs else 0


def make_learner(
    slot: Slot, spec: TrainSpec, rows: Sequence[TokenRow], num_rungs: int, dtype: str, rung_factor: float = 1.0
) -> Learner:
    """Return a learner at step 0."""
    from transformers import get_scheduler

    num_steps = spec.num_steps(len(rows))
    optimizer = slot.optimizer = OPTIMIZERS[spec.optim](slot, spec)
    return Learner(
        slot=slot,
        spec=spec,
        optimizer=optimizer,
        schedule=get_scheduler(spec.lr_scheduler_type, optimizer, spec.num_warmup_steps(num_steps), num_steps),
        # In fp16 small gradients vanish unless the loss is scaled; each slot finds its own scale.
        scaler=torch.amp.GradScaler(slot.vector.device.type, enabled=dtype == "fp16"),
        batches=micro_batches(
            rows,
            batch_size=spec.per_device_train_batch_size,
            accumulation=spec.gradient_accumulation_steps,
            seed=spec.seed,
        ),
        num_steps=num_steps,
        rungs=rung_steps(num_steps, num_rungs, rung_factor),
    )


def usual_tokens(rows: Sequence[TokenRow], spec: TrainSpec) -> int:
    """Return the tokens of an average micro-batch."""
    batch = min(spec.per_device_train_batch_size, len(rows))
    return max(1, round(batch * sum(len(row.ids) for row in rows) / len(rows)))


def rung_steps(num_steps: int, num_rungs: int, factor: float = 1.0) -> tuple[int, ...]:
    """Return the steps of the rungs, the last of them the last step.

    Each lies `factor` times as far as the one before; a factor of 1 spaces them evenly.
    """
    if factor == 1:
        shares = [i / num_rungs for i in range(1, num_rungs + 1)]
    else:
        shares = [factor**-i for i in range(num_rungs)]
    return tuple(sorted({max(1, round(num_steps * share)) for share in shares}))


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

    warnings.filterwarnings("ignore", "Paged optimizers are not supported on CPU")  # it says so, and goes on unpaged
    optimizer: torch.optim.Optimizer = PagedAdamW8bit(
        slot.tensors,  # it quantises each by itself
        lr=spec.learning_rate,
        betas=(spec.adam_beta1, spec.adam_beta2),
        eps=spec.adam_epsilon,
        weight_decay=spec.weight_decay,
    )
    return optimizer


OPTIMIZERS = {"adamw": _adamw, "paged_adamw_8bit": _paged_adamw_8bit}


def train_step(bank: Bank, learners: Sequence[Learner]) -> list[float]:
    """Run one micro-batch of every learner through the base together; return their losses so far in this step.

    A learner whose effective batch is complete takes an optimizer step; the others go on accumulating.
    """
    started = time.perf_counter()
    order = {slot: i for i, slot in enumerate(bank.slots)}
    usual = sum(x.slot.num_tokens for x in learners)
    limit = bank.pace.limit(usual)
    for part in passes(sorted(learners, key=lambda x: order[x.slot]), limit):
        _train_pass(bank, part)
    seconds = time.perf_counter() - started
    bank.pace.note(limit, usual, seconds)
    for learner in learners:
        learner.train_s += seconds
    return [x.loss for x in learners]


def _train_pass(bank: Bank, learners: Sequence[Learner]) -> None:
    batches = [next(learner.batches) for learner in learners]
    packed = pack(batches, bank.base.pad_id, flat=bank.base.is_flat)
    loss_K = bank.backward(
        [x.slot for x in learners],
        batches,
        packed,
        steps=[x.micro_step for x in learners],
        scale_K=torch.cat([x.scaler.scale(torch.ones(1, device=bank.base.device)) for x in learners]),
    )
    for learner, batch, loss in zip(learners, batches, loss_K.tolist(), strict=True):
        _advance(bank, learner, batch, loss)


def probe(bank: Bank, learner: Learner, rows: Sequence[TokenRow]) -> None:
    """Pass a learner's longest micro-batch forward and backward, and forget the gradient: memory is the question."""
    longest = sorted(rows, key=lambda row: len(row.ids))[-learner.spec.per_device_train_batch_size :]
    batch = MicroBatch(rows=tuple(longest), num_labels=sum(row.num_labels for row in longest), is_last=True)
    packed = pack([batch], bank.base.pad_id, flat=bank.base.is_flat)
    bank.backward([learner.slot], [batch], packed, steps=[0], scale_K=torch.ones(1, device=bank.base.device))
    learner.slot.gradient.zero_()


def passes(learners: Sequence[Learner], most_tokens: int) -> list[list[Learner]]:
    """Cut learners into passes of about so many tokens."""
    parts: list[list[Learner]] = [[]]
    tokens = 0
    for learner in learners:
        if parts[-1] and tokens + learner.slot.num_tokens > most_tokens:
            parts.append([])
            tokens = 0
        parts[-1].append(learner)
        tokens += learner.slot.num_tokens
    return parts


def _advance(bank: Bank, learner: Learner, batch: MicroBatch, loss: float) -> None:
    learner.micro_step += 1
    learner.num_tokens += sum(len(row.ids) for row in batch.rows)
    learner._partial += loss
    if not batch.is_last:
        return
    learner.loss, learner._partial = learner._partial, 0.0
    learner.losses.append((learner.step + 1, learner.loss, learner.schedule.get_last_lr()[0]))
    if math.isfinite(learner.loss):
        _update(learner)
        bank.group_of(learner.slot).publish(learner.slot)
    learner.step += 1
    learner.slot.gradient.zero_()  # in place: it lies in a stack


def _update(learner: Learner) -> None:
    parameters = [p for group in learner.optimizer.param_groups for p in group["params"]]
    if learner.scaler.is_enabled():
        learner.scaler.unscale_(learner.optimizer)
    if learner.spec.max_grad_norm:
        torch.nn.utils.clip_grad_norm_(parameters, learner.spec.max_grad_norm)
    if learner.scaler.is_enabled():
        learner.scaler.step(learner.optimizer)
        learner.scaler.update()
    else:
        learner.optimizer.step()
    learner.schedule.step()


def mean_loss(learner: Learner, steps: int = 10) -> float:
    """Return the mean training loss of the last steps, nats per label token."""
    recent = [loss for _, loss, _ in learner.losses[-steps:]]
    return sum(recent) / len(recent) if recent else math.nan
