"""Score slots on a suite: connects a bank with the evaluation functions.

All slots are scored in one pass, in which each batch is repeated once per slot. Without slots, the base is scored.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import torch

from evaluation.answers import Scored, Texts
from evaluation.choices import OptionChoices, option_choices
from evaluation.generate import greedy
from evaluation.metrics import METRICS
from evaluation.scoring import Likelihoods, TokenSequence, completion_logprobs
from lorasweep.adapters.bank import Bank
from lorasweep.adapters.slot import Slot
from lorasweep.core.errors import is_out_of_memory
from lorasweep.core.spec import EvalSpec
from lorasweep.data.render import TokenRow
from lorasweep.models.base import Base

if TYPE_CHECKING:
    from transformers import PreTrainedModel


T = TypeVar("T")


@dataclass(slots=True)
class SuiteScore:
    """One slot's result on a suite: aggregates, scores per example by metric, and generated texts if there are any."""

    metrics: dict[str, float] = field(default_factory=dict)
    scores: dict[str, tuple[float, ...]] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    num_tokens: tuple[int, ...] = ()  # per example, if a loss was measured


@dataclass(frozen=True, slots=True)
class PackedModel:
    """The models to score in one pass: the base with each of these slots of its bank, or without slots the base."""

    base: Base
    bank: Bank | None
    slots: tuple[Slot, ...]
    batch_rows: int

    @property
    def copies(self) -> int:
        return max(1, len(self.slots))

    def rows(self, count: int) -> AbstractContextManager[object]:
        if self.bank is None or not self.slots:
            return nullcontext()
        return self.bank.rows([(slot, count) for slot in self.slots])


def score_suite(
    packed: PackedModel, rows: Sequence[TokenRow], metrics: Sequence[str], spec: EvalSpec
) -> list[SuiteScore]:
    """Return one score per slot (or a single one for the base) with every metric that these rows allow."""
    packed.base.model.eval()
    results = [SuiteScore() for _ in range(packed.copies)]
    table = {name: METRICS[name] for name in metrics}
    is_choice = any(metric.from_choices for metric in table.values()) and all(row.options for row in rows)
    chosen = _choose(packed, rows, spec) if is_choice else None
    if scores := {name: metric.from_losses for name, metric in table.items() if metric.from_losses}:
        found = _likelihoods_of_targets(chosen, rows) if chosen and spec.end_token else _likelihoods(packed, rows)
        _add(results, scores, found.losses(torch.tensor([row.num_bytes for row in rows])))
        for result in results:
            result.num_tokens = tuple(found.num_tokens.tolist())
    if chosen:
        by_options = {name: metric.from_choices for name, metric in table.items() if metric.from_choices}
        _add(results, by_options, chosen.choices([row.option_bytes for row in rows], [row.target for row in rows]))
    if texts := {n: m.from_texts for n, m in table.items() if m.from_texts and not (chosen and m.from_choices)}:
        _add_texts(results, texts, write(packed, rows, spec.max_new_tokens), rows)
    for result in results:
        result.metrics = {name: result.metrics[name] for name in metrics if name in result.metrics}
    return results


# Fields of a row that its scores do not depend on, each with the reason.
NOT_SCORED = {
    "is_label": "only training reads it",
    "prompt": "the key covers its tokens",
    "is_truncated": "the key covers the remaining tokens",
    "row": "it is the position in the file",
}


def scored_content(rows: Sequence[TokenRow]) -> list[tuple[object, ...]]:
    """Return the fields of these rows that scores depend on, for a cache key: every field but `NOT_SCORED`."""
    return [
        (row.ids, row.prompt_length, row.options, row.option_prompts, row.option_bytes, row.target, row.reference,
         row.num_bytes) for row in rows
    ]  # fmt: skip


def _add(results: Sequence[SuiteScore], metrics: Mapping[str, Callable[[T], Scored]], found: Sequence[T]) -> None:
    """Add these metrics of each slot's answers."""
    for result, answers in zip(results, found, strict=True):
        for name, score in metrics.items():
            scored = score(answers)
            result.metrics[name], result.scores[name] = scored.value, scored.scores


def _add_texts(
    results: Sequence[SuiteScore],
    metrics: Mapping[str, Callable[[Texts], Scored]],
    written: Sequence[Sequence[str]],
    rows: Sequence[TokenRow],
) -> None:
    references = [row.reference for row in rows]
    _add(results, metrics, [Texts(predictions=texts, references=references) for texts in written])
    for result, texts in zip(results, written, strict=True):
        result.outputs = tuple(texts)


def write(packed: PackedModel, rows: Sequence[TokenRow], max_new_tokens: int) -> list[list[str]]:
    """Return the texts that each slot generates after the rows' prompts."""
    packed.base.model.eval()
    tokenizer = packed.base.tokenizer
    eos = tokenizer.eos_token_id
    special = set(tokenizer.all_special_ids)
    # A chat template may end turns with another token, which the labels contain.
    stops = {token for row in rows for token in row.ids[row.prompt_length :] if token in special}
    longest_option = max((len(option) for row in rows for option in row.options), default=0)
    answers = _in_batches(
        packed,
        partial(
            greedy,
            _generator(packed.base),
            [row.ids[: row.prompt_length] for row in rows],
            eos_ids=sorted(stops | ({eos} if eos is not None else set())),
            max_new_tokens=max(max_new_tokens, longest_option),  # a label that is cut off would always be wrong
            one_length=packed.base.shortcuts.generation != "padded",
            use_cache=packed.base.shortcuts.generation != "no_cache",
        ),
    )
    return [tokenizer.batch_decode(copy, skip_special_tokens=True) for copy in answers]


def _generator(base: Base) -> "PreTrainedModel":
    return base.model  # type: ignore[return-value]


def _sequence(row: TokenRow, completion: tuple[int, ...] | None = None) -> TokenSequence:
    # A text without prompt is scored from its second token: no position predicts the first.
    start = max(1, row.prompt_length)
    ids = row.ids if completion is None else row.ids[:start] + completion
    return TokenSequence(ids=ids, prompt_length=start)


def _choose(packed: PackedModel, rows: Sequence[TokenRow], spec: EvalSpec) -> OptionChoices:
    end = None if spec.end_token else packed.base.tokenizer.eos_token_id
    questions = [_question(row, end) for row in rows]
    # A tree has one prompt for all options of a question.
    is_shared = not any(row.option_prompts for row in rows)
    how = packed.base.option_logits if is_shared else {}
    return _in_batches(
        packed, partial(option_choices, packed.base.label_logits, questions, **how, device=packed.base.device)
    )


def _question(row: TokenRow, end: int | None) -> list[TokenSequence]:
    """Return each option after its prompt, without a final token `end` unless that is its only token."""
    options = [o[:-1] if o[-1] == end and len(o) > 1 else o for o in row.options]
    if not row.option_prompts:
        return [_sequence(row, option) for option in options]
    pairs = zip(row.option_prompts, options, strict=True)
    return [TokenSequence(ids=prompt + option, prompt_length=len(prompt)) for prompt, option in pairs]


def _likelihoods(packed: PackedModel, rows: Sequence[TokenRow]) -> Likelihoods:
    sequences = [_sequence(row) for row in rows]
    return _in_batches(
        packed, partial(completion_logprobs, packed.base.label_logits, sequences, device=packed.base.device)
    )


def _in_batches(packed: PackedModel, score: Callable[..., T]) -> T:
    """Call a scoring function; halve the batch after out-of-memory."""
    batch_rows = packed.batch_rows if packed.base.shortcuts.can_pad else packed.copies
    while True:
        try:
            return score(batch_rows=batch_rows, pad_id=packed.base.pad_id, copies=packed.copies, rows=packed.rows)
        except Exception as error:
            if not is_out_of_memory(error) or batch_rows <= packed.copies:
                raise
        batch_rows //= 2
        packed.base.empty_cache()  # only here: inside `except`, the traceback still references the batch's tensors


def _likelihoods_of_targets(chosen: OptionChoices, rows: Sequence[TokenRow]) -> Likelihoods:
    """Return the likelihoods of the correct options: each is the row's completion."""
    starts = torch.tensor([0, *[len(row.options) for row in rows]]).cumsum(0)[:-1]
    places = starts + torch.tensor([row.target for row in rows])
    return Likelihoods(
        logprobs=chosen.likelihoods.logprobs[:, places], num_tokens=chosen.likelihoods.num_tokens[places]
    )
