"""Train the live slots of a bank, each with its own optimizer, schedule and step counter.

A single trial is a bank with one live slot. If a pass is too large for the device, its rows are split over smaller
passes; losses and gradients are sums, so they stay the same.
"""

import math
import time
from collections.abc import Sequence

import torch

from lorasweep.adapters.bank import Bank
from lorasweep.adapters.train_state import Partial, TrainState
from lorasweep.core.errors import is_out_of_memory
from lorasweep.data.batches import MicroBatch, pack
from lorasweep.data.render import TokenRow


def train_step(bank: Bank, states: Sequence[TrainState]) -> list[float]:
    """Run one micro-batch of every trial through the base together.

    A trial whose effective batch is complete takes an optimizer step; the others continue to accumulate gradients.

    Returns:
        Each trial's loss at its last optimizer step, in nats per label token; NaN before the first one.
    """
    started = time.perf_counter()
    order = {slot: i for i, slot in enumerate(bank.slots)}
    usual = sum(x.slot.num_tokens for x in states)
    limit = bank.pass_size.limit(usual)
    waiting = passes(sorted(states, key=lambda x: order[x.slot]), limit)
    while waiting:
        todo = _fitting_pass(bank, waiting.pop(0))
        if todo:
            waiting.insert(0, todo)
    seconds = time.perf_counter() - started
    bank.pass_size.record(limit, usual, seconds)
    for state in states:
        state.train_s += seconds
    return [x.loss for x in states]


def passes(states: Sequence[TrainState], max_tokens: int) -> list[list[TrainState]]:
    """Group trials into passes of at most about `max_tokens` tokens."""
    parts: list[list[TrainState]] = [[]]
    tokens = 0
    for state in states:
        if parts[-1] and tokens + state.slot.num_tokens > max_tokens:
            parts.append([])
            tokens = 0
        parts[-1].append(state)
        tokens += state.slot.num_tokens
    return parts


def _fitting_pass(bank: Bank, states: list[TrainState]) -> list[TrainState]:
    """Run as much of one pass as fits; return the trials whose micro-batch is not finished.

    Raises:
        torch.OutOfMemoryError: a single row does not fit. The trials are in the state before the step.
    """
    chosen = _chosen(states, bank.max_tokens)
    parts = [x.loader.part(bank.max_tokens) for x in chosen]
    try:
        _train_pass(bank, chosen, parts)
    except Exception as error:
        for state in chosen:  # some layers may have added their gradients already
            state.rewind()
        if not is_out_of_memory(error) or not bank.shrink(parts):
            raise
    else:
        return [x for x in chosen if x.loader.is_inside] + states[len(chosen) :]
    bank.base.empty_cache()  # only here: inside `except`, the traceback still references the tensors of the pass
    return states


def _chosen(states: Sequence[TrainState], max_tokens: int) -> list[TrainState]:
    """Return the first trials whose next parts together have at most `max_tokens` tokens; at least one trial."""
    chosen: list[TrainState] = []
    tokens = 0
    for state in states:
        tokens += state.loader.part(max_tokens).num_tokens
        if chosen and tokens > max_tokens:
            break
        chosen.append(state)
    return chosen


def _train_pass(bank: Bank, states: Sequence[TrainState], batches: Sequence[MicroBatch]) -> None:
    packed = pack(batches, bank.base.pad_id, flat=bank.base.shortcuts.is_flat)
    loss_K = bank.backward(
        [x.slot for x in states],
        batches,
        packed,
        steps=[x.micro_step for x in states],
        scale_K=torch.cat([x.scaler.scale(torch.ones(1, device=bank.base.device)) for x in states]),
    )
    for state, batch, loss in zip(states, batches, loss_K.tolist(), strict=True):
        _advance(bank, state, batch, loss)


def warm_up(bank: Bank, state: TrainState, rows: Sequence[TokenRow]) -> None:
    """Run a trial's longest micro-batch forward and backward to measure memory, and clear the gradient."""
    longest = sorted(rows, key=lambda row: len(row.ids))[-state.spec.per_device_train_batch_size :]
    batch = MicroBatch(rows=tuple(longest), num_labels=sum(row.num_labels for row in longest), is_last=True)
    packed = pack([batch], bank.base.pad_id, flat=bank.base.shortcuts.is_flat)
    bank.backward([state.slot], [batch], packed, steps=[0], scale_K=torch.ones(1, device=bank.base.device))
    state.slot.gradient.zero_()


def _advance(bank: Bank, state: TrainState, batch: MicroBatch, loss: float) -> None:
    state.loader.take(batch)
    state.partial.loss += loss
    state.partial.num_tokens += batch.num_tokens
    if state.loader.is_inside:
        return
    state.partial.num_micro += 1
    state.micro_step += 1
    if batch.is_last:
        _complete(bank, state)


def _complete(bank: Bank, state: TrainState) -> None:
    """End an effective batch with an optimizer step, or without one if the loss is not finite."""
    state.loss = state.partial.loss
    state.num_tokens += state.partial.num_tokens
    state.partial = Partial()
    state.losses.append((state.step + 1, state.loss, float(state.schedule.get_last_lr()[0])))
    if math.isfinite(state.loss):
        _update(state)
        state.slot.method.after_step(state.slot, state.step)
        bank.group_of(state.slot).publish(state.slot)
    state.step += 1
    state.slot.gradient.zero_()  # in place: it is a row of a stack


def _update(state: TrainState) -> None:
    parameters = [p for group in state.optimizer.param_groups for p in group["params"]]
    if state.scaler.is_enabled():
        state.scaler.unscale_(state.optimizer)
    if state.spec.max_grad_norm:
        torch.nn.utils.clip_grad_norm_(parameters, state.spec.max_grad_norm)
    if state.scaler.is_enabled():
        state.scaler.step(state.optimizer)
        state.scaler.update()
    else:
        state.optimizer.step()
    state.schedule.step()
