"""Score all options of a question in one row: the prompt is read once, and options are hidden from each other.

A row is `prompt, option 1, option 2, ...`; every option continues the prompt's positions, and a mask hides the other
options. Scores are the same as those of separate rows, with far fewer tokens: a question of 20 tokens with 10 options
of 2 is a row of 30 instead of 10 rows of 21.

Legend: L copies (one per slot), n questions per copy in a batch, B = L * n rows, S padded length, T label positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from evaluation.scoring import Likelihoods, RowsHook, TokenSequence
from evaluation.sizes import trees_per_copy

TreeLogits = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
"""input_ids (B, S), position_ids (B, S), mask (B, 1, S, S) of visible tokens, rows (T,), cols (T,) -> logits (T, V)."""


@dataclass(frozen=True, slots=True)
class Tree:
    """A question in one row; `column` is, for every option token in order, the position that predicts it."""

    ids: tuple[int, ...]
    positions: tuple[int, ...]
    branch: tuple[int, ...]  # 0 for the prompt, then 1, 2, ... for the options
    column: tuple[int, ...]
    target: tuple[int, ...]
    lengths: tuple[int, ...]  # tokens of each option


def lay_out(options: Sequence[TokenSequence]) -> Tree:
    """Lay out a question's options in one row. Raises ValueError if they do not share a prompt."""
    size = options[0].prompt_length
    prompt = options[0].ids[:size]
    if any(o.ids[: o.prompt_length] != prompt for o in options):
        raise ValueError("the options of a question must share one prompt")
    ids, positions, branch = [*prompt], [*range(size)], [0] * size
    column: list[int] = []
    for number, option in enumerate(options, start=1):
        fed = option.completion[:-1]  # the last token is predicted but not an input
        column += [size - 1, *range(len(ids), len(ids) + len(fed))]
        ids += fed
        positions += range(size, size + len(fed))
        branch += [number] * len(fed)
    target = [token for option in options for token in option.completion]
    lengths = tuple(len(option.completion) for option in options)
    return Tree(tuple(ids), tuple(positions), tuple(branch), tuple(column), tuple(target), lengths)


@torch.no_grad()
def tree_logprobs(
    tree_logits: TreeLogits,
    questions: Sequence[Sequence[TokenSequence]],
    *,
    batch_rows: int,
    pad_id: int,
    copies: int = 1,
    rows: RowsHook = nullcontext,
    device: torch.device | str = "cpu",
) -> Likelihoods:
    """Return the log-probabilities of all options of all questions, end to end, like `completion_logprobs`."""
    trees = [lay_out(options) for options in questions]
    order = sorted(range(len(trees)), key=lambda i: len(trees[i].ids), reverse=True)
    found: list[Tensor] = [torch.empty(0)] * len(trees)
    while order:
        width = len(trees[order[0]].ids)
        size = trees_per_copy(batch_rows, copies, width)
        batch, order = order[:size], order[size:]
        with rows(len(batch)):
            pieces = _batch_logprobs(tree_logits, [trees[i] for i in batch], pad_id, copies, device)
        for index, piece in zip(batch, pieces, strict=True):
            found[index] = piece
    num_tokens = torch.tensor([length for tree in trees for length in tree.lengths])
    return Likelihoods(logprobs=torch.cat(found, dim=1), num_tokens=num_tokens)


def _batch_logprobs(
    tree_logits: TreeLogits, trees: Sequence[Tree], pad_id: int, copies: int, device: torch.device | str
) -> list[Tensor]:
    """Return summed log-probabilities (L, options) of each tree, float64 on the CPU."""
    ids_nS, positions_nS, mask_nSS = _layout(trees, pad_id)
    row_t = torch.tensor([r for r, tree in enumerate(trees) for _ in tree.column])
    column_t = torch.tensor([c for tree in trees for c in tree.column])
    target_t = torch.tensor([t for tree in trees for t in tree.target])
    row_T = torch.cat([row_t + copy * len(trees) for copy in range(copies)])
    logits_TV = tree_logits(
        ids_nS.repeat(copies, 1).to(device),
        positions_nS.repeat(copies, 1).to(device),
        mask_nSS.repeat(copies, 1, 1).unsqueeze(1).to(device),
        row_T.to(device),
        column_t.repeat(copies).to(device),
    )
    nats_T = torch.nn.functional.cross_entropy(logits_TV.float(), target_t.repeat(copies).to(device), reduction="none")
    tokens_LT = -nats_T.reshape(copies, -1).cpu().double()
    lengths = [length for tree in trees for length in tree.lengths]
    sums_LN = torch.stack([piece.sum(dim=1) for piece in torch.split(tokens_LT, lengths, dim=1)], dim=1)
    return list(torch.split(sums_LN, [len(tree.lengths) for tree in trees], dim=1))


def _layout(trees: Sequence[Tree], pad_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return ids_nS, positions_nS and mask_nSS: a token sees earlier tokens of the prompt and of its own option."""
    width = max(len(tree.ids) for tree in trees)

    def padded(rows: Sequence[Sequence[int]], fill: int) -> Tensor:
        return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows])

    branch_nS = padded([tree.branch for tree in trees], -1)
    same_nSS = branch_nS[:, :, None] == branch_nS[:, None, :]
    mask_nSS = (same_nSS | (branch_nS == 0)[:, None, :]) & torch.ones(width, width, dtype=torch.bool).tril()
    ids = padded([tree.ids for tree in trees], pad_id)
    return ids, padded([tree.positions for tree in trees], 0), mask_nSS
