"""Score slots on a suite: the bridge from a bank to the evaluation functions.

All slots that are scored answer together, each batch repeated once per slot. With no slots the base answers alone.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import torch

from evaluation.choices import OptionChoices, option_choices
from evaluation.generate import greedy
from evaluation.metrics import CHOICE_METRICS, LIKELIHOOD_METRICS, METRICS, TEXT_METRICS, accuracy, macro_f1, mean
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


def is_maximized(metric: str) -> bool:
    """Tell a metric's direction."""
    return METRICS[metric].direction == "maximize"


def score_suite(asked: Asked, rows: Sequence[TokenRow], metrics: Sequence[str], spec: EvalSpec) -> list[SuiteScore]:
    """Return one score per slot (one in all for the base alone) with every metric asked for."""
    asked.base.model.eval()
    results = [SuiteScore() for _ in range(asked.copies)]
    is_choice = bool({*CHOICE_METRICS, "macro_f1"} & set(metrics)) and all(row.options for row in rows)
    chosen = _choose(asked, rows, spec) if is_choice else None
    if set(LIKELIHOOD_METRICS) & set(metrics):
        found = _likelihoods_of_targets(chosen, rows) if chosen and spec.end_token else _likelihoods(asked, rows)
        _add_loss(results, found)
        _add_bits(results, found, rows)
    if chosen:
        _add_choices(results, chosen, rows)
    texts = [m for m in metrics if m in TEXT_METRICS or (m == "macro_f1" and not chosen)]
    if texts:
        _add_texts(results, write(asked, rows, spec.max_new_tokens), rows, texts)
    for result in results:
        result.metrics = {name: result.metrics[name] for name in metrics if name in result.metrics}
    return results


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
            one_length=asked.base.paths.generation != "padded",
            use_cache=asked.base.paths.generation != "no_cache",
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
    batch_rows = asked.batch_rows if asked.base.paths.can_pad else asked.copies
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


def _add_loss(results: list[SuiteScore], likelihoods: Likelihoods) -> None:
    for i, result in enumerate(results):
        result.num_tokens = tuple(likelihoods.num_tokens.tolist())
        result.metrics["loss"] = float(likelihoods.corpus_loss[i])
        result.metrics["perplexity"] = float(likelihoods.perplexity[i])
        result.scores["loss"] = tuple(likelihoods.losses[i].tolist())
        result.scores["perplexity"] = tuple(likelihoods.losses[i].exp().tolist())


def _add_bits(results: list[SuiteScore], likelihoods: Likelihoods, rows: Sequence[TokenRow]) -> None:
    """Bits per byte: total over total, as for the loss. An empty answer counts as one byte."""
    bytes_N = torch.tensor([max(1, row.num_bytes) for row in rows])
    bits_LN = -likelihoods.logprobs / math.log(2)
    for result, bits_N in zip(results, bits_LN, strict=True):
        result.metrics["bits_per_byte"] = float(bits_N.sum() / bytes_N.sum())
        result.scores["bits_per_byte"] = tuple((bits_N / bytes_N).tolist())


def _add_choices(results: list[SuiteScore], chosen: OptionChoices, rows: Sequence[TokenRow]) -> None:
    targets = [row.target for row in rows]
    bytes_N = torch.tensor([size for row in rows for size in row.option_bytes])
    picks_by = {
        "accuracy": chosen.picks,
        "accuracy_norm": chosen.picks_per(bytes_N),
        "accuracy_token": chosen.picks_per(chosen.likelihoods.num_tokens),
    }
    for name, every in picks_by.items():
        for result, picks in zip(results, every, strict=True):
            result.scores[name] = tuple(accuracy(picks, targets))
            result.metrics[name] = mean(result.scores[name])
    for result, picks in zip(results, chosen.picks, strict=True):
        result.metrics["macro_f1"] = macro_f1([str(p) for p in picks], [str(t) for t in targets])
        result.scores["macro_f1"] = result.scores["accuracy"]


def _add_texts(
    results: list[SuiteScore], written: list[list[str]], rows: Sequence[TokenRow], metrics: Sequence[str]
) -> None:
    references = [row.reference for row in rows]
    for result, texts in zip(results, written, strict=True):
        result.outputs = tuple(texts)
        for name in metrics:
            scores = TEXT_METRICS["exact_match" if name == "macro_f1" else name](texts, references)
            result.scores[name] = tuple(scores)
            result.metrics[name] = macro_f1(texts, references) if name == "macro_f1" else mean(scores)
