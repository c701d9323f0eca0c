"""Test which shortcuts give a base the same numbers as plain passes, one row at a time.

Shortcuts: rows of a batch end to end, all options of a question in one row, prompts padded on the left. Each is
compared with rows alone, forward and backward, through a bank of two different adapters. One may have diverged.
A shortcut with different numbers is not used.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from evaluation.choices import option_choices
from evaluation.generate import first_logits
from evaluation.scoring import TokenSequence
from lorasweep.adapters.bank import Bank
from lorasweep.adapters.methods.lora import LoraSpec
from lorasweep.adapters.slot import Slot
from lorasweep.data.batches import MicroBatch, pack
from lorasweep.data.render import TokenRow
from lorasweep.models import varlen_attention
from lorasweep.models.base import DTYPES, Base
from lorasweep.models.shortcuts import Generation, OptionForm, Shortcuts

# Relative differences that rounding causes. 16 bits show only coarse mistakes; a tiny base in fp32 shows the others.
TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.05}
QUANTISED = 0.1  # in 8-bit layers, rounding depends on the other rows of the batch
LONGEST = 64  # maximum tokens of a test row, which fit if training fits; the tiny base tests longer windows
SHORT_ROWS = (3, 11, 6)
OPTIONS = (1, 3, 2)
ATTENTION_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}


@dataclass(frozen=True, slots=True)
class Trained:
    """Each slot's loss and gradient."""

    loss: Tensor
    gradients: tuple[Tensor, ...]


def examine(base: Base) -> Shortcuts:
    """Return the shortcuts that this base allows. It must have its stock attention; any bank is removed."""
    bank = _bank(base)
    length = min(max(windows(base.model.config), default=SHORT_ROWS[1]) + 6, LONGEST)
    rows = _rows((*SHORT_ROWS[:1], length, *SHORT_ROWS[1:]))
    alone = _alone(bank, rows)
    has_own = varlen_attention.install(base.model) and _is_same(base, lambda: _alone(bank, rows), alone)
    if has_own:
        return _examine(bank, rows, alone, length, has_own=True)
    if varlen_attention.is_installed(base.model):
        varlen_attention.uninstall(base.model)
    return _examine(bank, rows, alone, length, has_own=False)


def _examine(bank: Bank, rows: Sequence[TokenRow], alone: Trained, length: int, *, has_own: bool) -> Shortcuts:
    base = bank.base
    return Shortcuts(
        own_attention=has_own,
        can_pad=_is_same(base, lambda: _together(bank, rows, flat=False), alone),
        is_flat=has_own and carries_no_state(base) and _is_same(base, lambda: _together(bank, rows, flat=True), alone),
        option_form=_option_form(bank, length, has_own=has_own),
        generation=_generation(bank, rows),
    )


def windows(config: Any) -> list[int]:
    """Return the window sizes of layers with sliding-window or chunked attention."""
    text = config.get_text_config()
    names = ("sliding_window", "attention_chunk_size", "attention_window_size", "window_size", "local_attention")
    return [size for name in names if isinstance(size := getattr(text, name, None), int) and size > 0]


def carries_no_state(base: Base) -> bool:
    """Return whether all layers are attention layers; others may carry a state between tokens and rows."""
    text = base.model.config.get_text_config()  # type: ignore[union-attr,operator]
    layers = set(getattr(text, "layer_types", None) or ATTENTION_LAYERS)
    return layers <= ATTENTION_LAYERS and not getattr(base.model, "_is_stateful", False)


def _bank(base: Base) -> Bank:
    """Return a bank of two small random adapters on all linears that can carry one."""
    bank = Bank(base, 2)
    spec = LoraSpec(r=1, lora_alpha=1, target_modules=tuple(base.info.linears))
    for number in range(2):
        slot = bank.add(number, spec, number)
        generator = torch.Generator().manual_seed(number)
        for tensor in (x for parts in slot.tensors.values() for x in parts):
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.05)
        bank.group_of(slot).publish(slot)
    return bank


def _rows(lengths: Sequence[int], seed: int = 0) -> list[TokenRow]:
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for length in lengths:
        ids = tuple(torch.randint(3, 90, (length,), generator=generator).tolist())
        rows.append(TokenRow(ids=ids, is_label=(False, *[True] * (length - 1)), prompt_length=1))
    return rows


def _alone(bank: Bank, rows: Sequence[TokenRow]) -> Trained:
    """Pass each row through the base separately; the first half of the rows belongs to slot 0."""
    losses, gradients = [], []
    for slot, own in zip(bank.live, _halves(rows), strict=True):
        slot.gradient.zero_()
        num_labels = sum(row.num_labels for row in own)
        batches = [MicroBatch(rows=(row,), num_labels=num_labels, is_last=True) for row in own]
        losses.append(torch.stack([_backward(bank, [slot], [batch], flat=False) for batch in batches]).sum(dim=0))
        gradients.append(slot.gradient.clone())
    return Trained(torch.cat(losses), tuple(gradients))


def _together(bank: Bank, rows: Sequence[TokenRow], *, flat: bool) -> Trained:
    """Pass all rows at once; then again with a diverged adapter in the other slot."""
    batches = [
        MicroBatch(rows=tuple(own), num_labels=sum(row.num_labels for row in own), is_last=True)
        for own in _halves(rows)
    ]
    first, second = bank.live
    found = _pass(bank, batches, flat=flat)
    with_nan = [_beside_nan(bank, slot, batches, flat=flat) for slot in (second, first)]
    loss = torch.cat([found.loss, with_nan[0].loss[:1], with_nan[1].loss[1:]])
    return Trained(loss, (*found.gradients, with_nan[0].gradients[0], with_nan[1].gradients[1]))


def _beside_nan(bank: Bank, diverged: Slot, batches: Sequence[MicroBatch], *, flat: bool) -> Trained:
    kept = diverged.vector.data.clone()
    diverged.vector.data.fill_(torch.nan)
    bank.group_of(diverged).publish(diverged)
    try:
        return _pass(bank, batches, flat=flat)
    finally:
        diverged.vector.data.copy_(kept)
        bank.group_of(diverged).publish(diverged)


def _pass(bank: Bank, batches: Sequence[MicroBatch], *, flat: bool) -> Trained:
    for slot in bank.live:
        slot.gradient.zero_()
    loss = _backward(bank, bank.live, batches, flat=flat)
    return Trained(loss, tuple(slot.gradient.clone() for slot in bank.live))


def _backward(bank: Bank, slots: Sequence[Slot], batches: Sequence[MicroBatch], *, flat: bool) -> Tensor:
    scale = torch.ones(len(slots), device=bank.base.device)
    packed = pack(batches, bank.base.pad_id, flat=flat)
    return bank.backward(slots, batches, packed, steps=[0] * len(slots), scale_K=scale)


def _halves(rows: Sequence[TokenRow]) -> tuple[Sequence[TokenRow], Sequence[TokenRow]]:
    return rows[: len(rows) // 2], rows[len(rows) // 2 :]


def _is_same(base: Base, attempt: Callable[[], Trained], alone: Trained) -> bool:
    try:
        found = attempt()
    except Exception:  # an architecture may fail in any way; then the shortcut is not used
        return False
    times = len(found.gradients) // len(alone.gradients)  # again with a diverged adapter in the other slot
    expected = alone.gradients * times
    pairs = [(found.loss, alone.loss.repeat(times)), *zip(found.gradients, expected, strict=True)]
    return all(_agree(base, x, y) for x, y in pairs)


def _agree(base: Base, found: Tensor, expected: Tensor) -> bool:
    """Return whether a difference can be due to rounding; NaN cannot."""
    tolerance = TOLERANCES[DTYPES[base.spec.dtype]]
    tolerance = tolerance if base.spec.precision == "none" else max(tolerance, QUANTISED)
    distance, size = (found - expected).norm(), expected.norm()
    return bool(distance <= tolerance * size + 1e-12)


@torch.no_grad()
def _option_form(bank: Bank, length: int, *, has_own: bool) -> OptionForm:
    """Return the first form that gives each option the log-probability that it has alone."""
    base = bank.base
    base.model.eval()
    prompts = [row.ids for row in _rows((length, SHORT_ROWS[0]), seed=1)]
    endings = [row.ids for row in _rows(OPTIONS, seed=2)]
    questions = [[TokenSequence(ids=p + e, prompt_length=len(p)) for e in endings] for p in prompts]

    def ask(some: Sequence[Sequence[TokenSequence]], batch_rows: int) -> Tensor:
        return option_choices(
            base.label_logits, some, pad_id=base.pad_id, copies=2, device=base.device, batch_rows=batch_rows,
            rows=lambda count: bank.rows([(slot, count) for slot in bank.live]), **base.option_logits,
        ).likelihoods.logprobs  # fmt: skip

    alone = torch.cat([ask([[option]], 2) for question in questions for option in question], dim=1)
    masked: tuple[OptionForm, ...] = ("layout", "mask", "bias") if has_own else ("mask", "bias")
    forms: tuple[OptionForm, ...] = (*masked, "cache") if carries_no_state(base) else ("cache",)
    try:
        return next((form for form in forms if _gives(base, form, partial(ask, questions, 8), alone)), "none")
    finally:
        base.shortcuts = Shortcuts()


def _gives(base: Base, form: OptionForm, ask: Callable[[], Tensor], expected: Tensor) -> bool:
    base.shortcuts = Shortcuts(option_form=form)
    try:
        return _agree(base, ask(), expected)
    except Exception:  # as above: then the next form is tried
        return False


@torch.no_grad()
def _generation(bank: Bank, rows: Sequence[TokenRow]) -> Generation:
    """Compare the logits of the first two new tokens with those of each slot and prompt alone."""
    base, prompts = bank.base, [row.ids for row in rows]
    base.model.eval()

    def ask(slots: Sequence[Slot], some: Sequence[tuple[int, ...]]) -> Tensor:
        with bank.rows([(slot, len(some)) for slot in slots]):
            logits = first_logits(base.model, some, token=4, pad_id=base.pad_id, copies=len(slots))  # type: ignore[arg-type]
        return logits.view(len(slots), len(some), *logits.shape[1:])

    try:
        alone = torch.cat([torch.cat([ask([slot], [p]) for p in prompts], dim=1) for slot in bank.live])
        if _agree(base, ask(bank.live, prompts), alone):
            return "padded"
        if _agree(base, torch.cat([ask(bank.live, [p]) for p in prompts], dim=1), alone):
            return "one_length"
    except Exception:  # as above: then the slowest form is used
        return "no_cache"
    return "no_cache"
