"""Answer multiple choice by likelihood: the option the model finds most likely is its answer.

Legend: L copies (one per slot), N options of all questions, end to end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import TypeVar

import torch

from evaluation.answers import Choices, most_likely
from evaluation.cached import CachedLogits, cached_logprobs
from evaluation.scoring import LabelLogits, Likelihoods, RowsHook, TokenSequence, completion_logprobs
from evaluation.trees import TreeLogits, tree_logprobs

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionChoices:
    """The likelihood of every option of every question, per copy."""

    likelihoods: Likelihoods  # of all options, end to end
    num_options: tuple[int, ...]

    @property
    def picks(self) -> list[list[int]]:
        """The most likely option per copy and question; lm-evaluation-harness calls its accuracy `acc`."""
        every = self.likelihoods.logprobs.tolist()
        return [[most_likely(logprobs) for logprobs in self.by_question(copy)] for copy in every]

    def choices(self, num_bytes: Sequence[Sequence[int]], targets: Sequence[int]) -> list[Choices]:
        """Return what metrics are computed from, for each copy: `num_bytes` of each question's options in UTF-8."""
        num_tokens = self.by_question(self.likelihoods.num_tokens.tolist())
        every = [self.by_question(logprobs) for logprobs in self.likelihoods.logprobs.tolist()]
        return [Choices(logprobs=x, num_tokens=num_tokens, num_bytes=num_bytes, targets=targets) for x in every]

    def by_question(self, values: Sequence[T]) -> list[Sequence[T]]:
        """Cut one value per option into one list per question."""
        ends = list(accumulate(self.num_options))
        return [values[end - size : end] for end, size in zip(ends, self.num_options, strict=True)]


def option_choices(
    label_logits: LabelLogits,
    questions: Sequence[Sequence[TokenSequence]],
    *,
    tree_logits: TreeLogits | None = None,
    cached_logits: CachedLogits | None = None,
    batch_rows: int,
    pad_id: int,
    copies: int = 1,
    rows: RowsHook = nullcontext,
    device: torch.device | str = "cpu",
) -> OptionChoices:
    """Answer multiple choice: each question is its options, every one the same prompt with another completion.

    The first of equally likely options wins. With `tree_logits`, or `cached_logits` where a tree
    is not exact, every prompt is read once instead of once per option.
    Other arguments as for `completion_logprobs`.
    """
    ask: Callable[..., Likelihoods] = partial(completion_logprobs, label_logits, [o for q in questions for o in q])
    if tree_logits:
        ask = partial(tree_logprobs, tree_logits, questions)
    elif cached_logits:
        ask = partial(cached_logprobs, cached_logits, questions)
    scored = ask(batch_rows=batch_rows, pad_id=pad_id, copies=copies, rows=rows, device=device)
    return OptionChoices(likelihoods=scored, num_options=tuple(len(question) for question in questions))
