"""Answer multiple choice by likelihood: the option the model finds most likely is its answer.

Legend: L copies (one per slot), N options of all questions, end to end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from evaluation.cached import CachedLogits, cached_logprobs
from evaluation.scoring import LabelLogits, Likelihoods, RowsHook, TokenSequence, completion_logprobs
from evaluation.trees import TreeLogits, tree_logprobs


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionChoices:
    """The most likely completion per copy and question; lm-evaluation-harness calls its accuracy `acc`.

    A sum of log-probabilities favours short options; `picks_per` divides by their lengths.
    """

    picks: list[list[int]]  # index; -1 where a log-probability is NaN, so a broken model scores 0
    likelihoods: Likelihoods  # of all options, end to end
    num_options: tuple[int, ...]

    def picks_per(self, lengths_N: Tensor) -> list[list[int]]:
        """Return the options with the highest log-probability per unit of length, such as bytes or tokens."""
        return _choose(self.likelihoods.logprobs / lengths_N, self.num_options)


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
    num_options = tuple(len(question) for question in questions)
    return OptionChoices(
        picks=_choose(scored.logprobs, num_options),
        likelihoods=scored,
        num_options=num_options,
    )


def _choose(logprobs_LN: Tensor, num_options: Sequence[int]) -> list[list[int]]:
    """(L, questions) index of the best option; torch alone would call NaN the best."""
    chosen = [
        piece.argmax(dim=1).masked_fill(piece.isnan().any(dim=1), -1)
        for piece in torch.split(logprobs_LN, list(num_options), dim=1)
    ]
    return [[int(index[copy]) for index in chosen] for copy in range(len(logprobs_LN))]
