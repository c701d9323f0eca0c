"""Train the live slots of a bank, each by its own clock.

The one training path: a lone trial is a bank with one live slot. Where a pass is too large for the device, the same
rows go through it in smaller ones; losses and gradients are sums, so they stay what they were.
"""

import math
import time
from collections.abc import Sequence

import torch

from lorasweep.adapters.bank import Bank
from lorasweep.adapters.train_state import Learner, Partial
from lorasweep.core.errors import is_out_of_memory
from lorasweep.data.batches import MicroBatch, pack
from lorasweep.data.render import TokenRow


def train_step(bank: Bank, learners: Sequence[Learner]) -> list[float]:
    """Run one micro-batch of every learner through the base together; return their losses so far in this step.

    A learner whose effective batch is complete takes an optimizer step; the others go on accumulating.
    """
    started = time.perf_counter()
    order = {slot: i for i, slot in enumerate(bank.slots)}
    usual = sum(x.slot.num_tokens for x in learners)
    limit = bank.pace.limit(usual)
    waiting = passes(sorted(learners, key=lambda x: order[x.slot]), limit)
    while waiting:
        todo = _fitting_pass(bank, waiting.pop(0))
        if todo:
            waiting.insert(0, todo)
    seconds = time.perf_counter() - started
    bank.pace.note(limit, usual, seconds)
    for learner in learners:
        learner.train_s += seconds
    return [x.loss for x in learners]


def _fitting_pass(bank: Bank, learners: list[Learner]) -> list[Learner]:
    """Run as much of one pass as fits, and return whose micro-batch is not through yet.

    Raises:
        torch.OutOfMemoryError: not even a single row fits. The learners are where they were before the step.
    """
    chosen = _chosen(learners, bank.most_tokens)
    parts = [x.feed.part(bank.most_tokens) for x in chosen]
    try:
        _train_pass(bank, chosen, parts)
    except Exception as error:
        for learner in chosen:  # some layers may have added their gradients already
            learner.rewind()
        if not is_out_of_memory(error) or not bank.shrink(parts):
            raise
    else:
        return [x for x in chosen if x.feed.is_inside] + learners[len(chosen) :]
    bank.base.empty_cache()  # only here has the traceback let go of the tensors of the pass
    return learners


def _chosen(learners: Sequence[Learner], most_tokens: int) -> list[Learner]:
    """Return the first learners whose next parts together stay within `most_tokens`, at least one."""
    chosen: list[Learner] = []
    tokens = 0
    for learner in learners:
        tokens += learner.feed.part(most_tokens).num_tokens
        if chosen and tokens > most_tokens:
            break
        chosen.append(learner)
    return chosen


def _train_pass(bank: Bank, learners: Sequence[Learner], batches: Sequence[MicroBatch]) -> None:
    packed = pack(batches, bank.base.pad_id, flat=bank.base.shortcuts.is_flat)
    loss_K = bank.backward(
        [x.slot for x in learners],
        batches,
        packed,
        steps=[x.micro_step for x in learners],
        scale_K=torch.cat([x.scaler.scale(torch.ones(1, device=bank.base.device)) for x in learners]),
    )
    for learner, batch, loss in zip(learners, batches, loss_K.tolist(), strict=True):
        _advance(bank, learner, batch, loss)


def warm_up(bank: Bank, learner: Learner, rows: Sequence[TokenRow]) -> None:
    """Pass a learner's longest micro-batch forward and backward to measure memory, and clear the gradient."""
    longest = sorted(rows, key=lambda row: len(row.ids))[-learner.spec.per_device_train_batch_size :]
    batch = MicroBatch(rows=tuple(longest), num_labels=sum(row.num_labels for row in longest), is_last=True)
    packed = pack([batch], bank.base.pad_id, flat=bank.base.shortcuts.is_flat)
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
    learner.feed.take(batch)
    learner.partial.loss += loss
    learner.partial.num_tokens += batch.num_tokens
    if learner.feed.is_inside:
        return
    learner.partial.num_micro += 1
    learner.micro_step += 1
    if batch.is_last:
        _complete(bank, learner)


def _complete(bank: Bank, learner: Learner) -> None:
    """The effective batch is complete: take an optimizer step, unless its loss is no number."""
    learner.loss = learner.partial.loss
    learner.num_tokens += learner.partial.num_tokens
    learner.partial = Partial()
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
