"""Score all options of a question with one pass over its prompt, for models that carry a state from token to token.

The prompt's cache is copied for each option, and the options are fed token by token as in generation. A mask cannot
hide options from each other in a recurrent or convolutional layer; separate copies of its state can.
Legend: L copies (one per slot), n questions per copy, B = L * n prompts, O options of a batch, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from evaluation.scoring import Likelihoods, RowsHook, TokenSequence
from evaluation.sizes import rows_per_copy

CachedLogits = Callable[[Tensor, Any], tuple[Tensor, Any]]
"""input_ids (B, S), cache or None -> logits (B, V) after the last token, and the cache including these tokens."""


@torch.no_grad()
def cached_logprobs(
    cached_logits: CachedLogits,
    questions: Sequence[Sequence[TokenSequence]],
    *,
    batch_rows: int,
    pad_id: int,
    copies: int = 1,
    rows: RowsHook = nullcontext,
    device: torch.device | str = "cpu",
) -> Likelihoods:
    """Return the log-probabilities of all options of all questions, end to end, like `completion_logprobs`.

    Prompts of equal length are read together, so that none is padded. `batch_rows` limits the rows of a pass.
    """
    found: dict[int, Tensor] = {}
    for batch in _batches(questions, rows_per_copy(batch_rows, copies)):
        prompts = [questions[i][0].ids[: questions[i][0].prompt_length] for i in batch]
        with rows(len(batch)):
            ids_BS = torch.tensor(prompts).repeat(copies, 1).to(device)
            first_BV, cache = cached_logits(ids_BS, None)
        places = [(place, i, option) for place, i in enumerate(batch) for option in range(len(questions[i]))]
        pieces = []
        for part in _parts(places, rows_per_copy(batch_rows, copies)):
            options = [questions[i][option].completion for _, i, option in part]
            row_O = torch.tensor([place + c * len(batch) for c in range(copies) for place, _, _ in part], device=device)
            with rows(len(part)):
                pieces.append(_continued(cached_logits, first_BV, cache, row_O, options, pad_id, copies))
        scores = torch.cat(pieces, dim=1)
        found |= dict(zip(batch, torch.split(scores, [len(questions[i]) for i in batch], dim=1), strict=True))
    num_tokens = torch.tensor([len(option.completion) for question in questions for option in question])
    return Likelihoods(logprobs=torch.cat([found[i] for i in range(len(questions))], dim=1), num_tokens=num_tokens)


def _batches(questions: Sequence[Sequence[TokenSequence]], size: int) -> Iterator[list[int]]:
    """Yield batches of questions with prompts of equal length, the longest first."""

    def length(i: int) -> int:
        return questions[i][0].prompt_length

    for _, group in groupby(sorted(range(len(questions)), key=length, reverse=True), length):
        yield from _parts(list(group), size)


def _parts(items: list[Any], size: int) -> Iterator[list[Any]]:
    yield from (items[start : start + size] for start in range(0, len(items), size))


def _continued(
    cached_logits: CachedLogits,
    first_BV: Tensor,
    cache: Any,
    row_O: Tensor,
    options: Sequence[Sequence[int]],
    pad_id: int,
    copies: int,
) -> Tensor:
    """Return summed log-probabilities (L, options), float64 on the CPU; `row_O` is each option's prompt."""
    longest = max(map(len, options))
    padded = [[*option, *[pad_id] * (longest - len(option))] for option in options]
    token_OS = torch.tensor(padded, device=row_O.device).repeat(copies, 1)
    is_scored_OS = torch.tensor([[place < len(option) for place in range(longest)] for option in options])
    logits_OV = first_BV[row_O]
    sums_O = _logprobs(logits_OV, token_OS[:, 0])
    if longest > 1:
        cache = copy.deepcopy(cache)
        cache.reorder_cache(row_O)
    for place in range(1, longest):
        logits_OV, cache = cached_logits(token_OS[:, place - 1 : place], cache)
        sums_O = sums_O + _logprobs(logits_OV, token_OS[:, place]) * is_scored_OS[:, place].repeat(copies)
    return sums_O.view(copies, len(options))


def _logprobs(logits_OV: Tensor, token_O: Tensor) -> Tensor:
    nats_O = torch.nn.functional.cross_entropy(logits_OV.float(), token_O, reduction="none")
    return -nats_O.cpu().double()
