"""Score slots on a suite: the bridge from a bank to the evaluation functions.

All slots that are scored answer together, each batch repeated once per slot. With no slots the base answers alone.
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
    """One slot's result on a suite: aggregates, scores per example by metric, and texts where any were written."""

    metrics: dict[str, float] = field(default_factory=dict)
    scores: dict[str, tuple[float, ...]] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    num_tokens: tuple[int, ...] = ()  # per example, where a loss was measured


@dataclass(frozen=True, slots=True)
class Asked:
    """Who answers: a base, and the slots of its bank, or none of them for the base alone."""

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


def score_suite(asked: Asked, rows: Sequence[TokenRow], metrics: Sequence[str], spec: EvalSpec) -> list[SuiteScore]:
    """Return one score per slot (one in all for the base alone) with every metric that these rows allow."""
    asked.base.model.eval()
    results = [SuiteScore() for _ in range(asked.copies)]
    table = {name: METRICS[name] for name in metrics}
    is_choice = any(metric.from_choices for metric in table.values()) and all(row.options for row in rows)
    chosen = _choose(asked, rows, spec) if is_choice else None
    if scores := {name: metric.from_losses for name, metric in table.items() if metric.from_losses}:
        found = _likelihoods_of_targets(chosen, rows) if chosen and spec.end_token else _likelihoods(asked, rows)
        _add(results, scores, found.losses(torch.tensor([row.num_bytes for row in rows])))
        for result in results:
            result.num_tokens = tuple(found.num_tokens.tolist())
    if chosen:
        by_options = {name: metric.from_choices for name, metric in table.items() if metric.from_choices}
        _add(results, by_options, chosen.choices([row.option_bytes for row in rows], [row.target for row in rows]))
    if texts := {n: m.from_texts for n, m in table.items() if m.from_texts and not (chosen and m.from_choices)}:
        _add_texts(results, texts, write(asked, rows, spec.max_new_tokens), rows)
    for result in results:
        result.metrics = {name: result.metrics[name] for name in metrics if name in result.metrics}
    return results


# Fields of a row that its scores do not depend on, each with the reason.
NOT_SCORED = {
    "is_label": "training alone reads it",
    "prompt": "its tokens are named",
    "is_truncated": "what is left is named",
    "row": "it says where the row came from",
}


def scored_content(rows: Sequence[TokenRow]) -> list[tuple[object, ...]]:
    """Return what scores depend on in these rows, to name kept scores by: every field but `NOT_SCORED`."""
    return [
        (row.ids, row.prompt_length, row.options, row.option_prompts, row.option_bytes, row.target, row.reference,
         row.num_bytes) for row in rows
    ]  # fmt: skip


def _add(results: Sequence[SuiteScore], metrics: Mapping[str, Callable[[T], Scored]], found: Sequence[T]) -> None:
    """Add these metrics of what each slot answered."""
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


def write(asked: Asked, rows: Sequence[TokenRow], max_new_tokens: int) -> list[list[str]]:
    """Return the texts that each slot writes after the rows' prompts."""
    asked.base.model.eval()
    tokenizer = asked.base.tokenizer
    eos = tokenizer.eos_token_id
    special = set(tokenizer.all_special_ids)
    # A chat template ends its turns with a token of its own, which the labels hold.
    stops = {token for row in rows for token in row.ids[row.prompt_length :] if token in special}
    longest_option = max((len(option) for row in rows for option in row.options), default=0)
    answers = _ask(
        asked,
        partial(
            greedy,
            _generator(asked.base),
            [row.ids[: row.prompt_length] for row in rows],
            eos_ids=sorted(stops | ({eos} if eos is not None else set())),
            max_new_tokens=max(max_new_tokens, longest_option),  # a label that is cut short could never be right
            one_length=asked.base.shortcuts.generation != "padded",
            use_cache=asked.base.shortcuts.generation != "no_cache",
        ),
    )
    return [tokenizer.batch_decode(copy, skip_special_tokens=True) for copy in answers]


def _generator(base: Base) -> "PreTrainedModel":
    return base.model  # type: ignore[return-value]


def _sequence(row: TokenRow, completion: tuple[int, ...] | None = None) -> TokenSequence:
    # A text without prompt is scored from its second token on: nothing predicts the first.
    start = max(1, row.prompt_length)
    ids = row.ids if completion is None else row.ids[:start] + completion
    return TokenSequence(ids=ids, prompt_length=start)


def _choose(asked: Asked, rows: Sequence[TokenRow], spec: EvalSpec) -> OptionChoices:
    end = None if spec.end_token else asked.base.tokenizer.eos_token_id
    questions = [_question(row, end) for row in rows]
    # A tree has one prompt for all options of a question.
    is_shared = not any(row.option_prompts for row in rows)
    how = asked.base.option_logits if is_shared else {}
    return _ask(asked, partial(option_choices, asked.base.label_logits, questions, **how, device=asked.base.device))


def _question(row: TokenRow, end: int | None) -> list[TokenSequence]:
    """Return each option after its prompt; without the token `end` after it, where that is not all it has."""
    options = [o[:-1] if o[-1] == end and len(o) > 1 else o for o in row.options]
    if not row.option_prompts:
        return [_sequence(row, option) for option in options]
    pairs = zip(row.option_prompts, options, strict=True)
    return [TokenSequence(ids=prompt + option, prompt_length=len(prompt)) for prompt, option in pairs]


def _likelihoods(asked: Asked, rows: Sequence[TokenRow]) -> Likelihoods:
    sequences = [_sequence(row) for row in rows]
    return _ask(asked, partial(completion_logprobs, asked.base.label_logits, sequences, device=asked.base.device))


def _ask(asked: Asked, score: Callable[..., T]) -> T:
    """Call a scorer; where the device is too small for a batch, with half of it."""
    batch_rows = asked.batch_rows if asked.base.shortcuts.can_pad else asked.copies
    while True:
        try:
            return score(batch_rows=batch_rows, pad_id=asked.base.pad_id, copies=asked.copies, rows=asked.rows)
        except Exception as error:
            if not is_out_of_memory(error) or batch_rows <= asked.copies:
                raise
        batch_rows //= 2
        asked.base.empty_cache()  # only here has the traceback let go of the tensors of the batch


def _likelihoods_of_targets(chosen: OptionChoices, rows: Sequence[TokenRow]) -> Likelihoods:
    """The right option is the completion, so its likelihood is there already."""
    starts = torch.tensor([0, *[len(row.options) for row in rows]]).cumsum(0)[:-1]
    places = starts + torch.tensor([row.target for row in rows])
    return Likelihoods(
        logprobs=chosen.likelihoods.logprobs[:, places], num_tokens=chosen.likelihoods.num_tokens[places]
    )
