"""Answer multiple-choice questions by likelihood: the most likely option is the answer.

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
    """The likelihoods of all options of all questions, per copy."""

    likelihoods: Likelihoods  # of all options, end to end
    num_options: tuple[int, ...]

    @property
    def picks(self) -> list[list[int]]:
        """The most likely option per copy and question; lm-evaluation-harness calls the accuracy of these `acc`."""
        every = self.likelihoods.logprobs.tolist()
        return [[most_likely(logprobs) for logprobs in self.by_question(copy)] for copy in every]

    def choices(self, num_bytes: Sequence[Sequence[int]], targets: Sequence[int]) -> list[Choices]:
        """Return the input of metrics for each copy; `num_bytes` are the UTF-8 bytes of each question's options."""
        num_tokens = self.by_question(self.likelihoods.num_tokens.tolist())
        every = [self.by_question(logprobs) for logprobs in self.likelihoods.logprobs.tolist()]
        return [Choices(logprobs=x, num_tokens=num_tokens, num_bytes=num_bytes, targets=targets) for x in every]

    def by_question(self, values: Sequence[T]) -> list[Sequence[T]]:
        """Split one value per option into one list per question."""
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
    """Answer multiple-choice questions. A question is its options: the same prompt with different completions.

    The first of equally likely options wins. With `tree_logits`, or with `cached_logits` if trees are not exact, every
    prompt is read once instead of once per option. Other arguments as for `completion_logprobs`.
    """
    score: Callable[..., Likelihoods] = partial(completion_logprobs, label_logits, [o for q in questions for o in q])
    if tree_logits:
        score = partial(tree_logprobs, tree_logits, questions)
    elif cached_logits:
        score = partial(cached_logprobs, cached_logits, questions)
    scored = score(batch_rows=batch_rows, pad_id=pad_id, copies=copies, rows=rows, device=device)
    return OptionChoices(likelihoods=scored, num_options=tuple(len(question) for question in questions))
