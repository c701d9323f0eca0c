"""Score texts by their likelihood under a causal language model.

The model is a function from right-padded token ids to logits at selected positions. Scores need nothing else; the
caller can skip the logits of prompts, and can answer with one model or with a bank of adapters.

Legend: L copies (one per slot), n inputs per copy in a batch, B = L * n rows, S padded length, T label positions,
V vocabulary, N sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from evaluation.answers import TokenLosses
from evaluation.sizes import LOGIT_ROWS, rows_per_copy

LabelLogits = Callable[[Tensor, Tensor, Tensor], Tensor]
"""input_ids (B, S), rows (T,), cols (T,) -> logits (T, V), each predicting the token after position `cols`."""

RowsHook = Callable[[int], AbstractContextManager[object]]
"""A context around each forward pass, called with its number of rows per slot. `nullcontext` without slots."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSequence:
    """A prompt and its completion; the first `prompt_length` ids are the prompt, the rest are scored."""

    ids: tuple[int, ...]
    prompt_length: int

    def __post_init__(self) -> None:
        if not 0 < self.prompt_length < len(self.ids):
            raise ValueError(
                f"prompt_length {self.prompt_length} of {len(self.ids)} ids: "
                "a score needs at least one prompt token and one completion token"
            )

    @property
    def completion(self) -> tuple[int, ...]:
        return self.ids[self.prompt_length :]


@dataclass(frozen=True, slots=True, kw_only=True)
class Likelihoods:
    """Log-probabilities of completions, in nats; float64 on the CPU, in the order of the sequences."""

    logprobs: Tensor  # (L, N), summed over completion tokens
    num_tokens: Tensor  # (N,)

    def losses(self, num_bytes_N: Tensor) -> list[TokenLosses]:
        """Return the input of metrics for each copy; `num_bytes_N` are the completions' sizes in UTF-8."""
        return [
            TokenLosses(nats_N=-logprobs_N, num_tokens_N=self.num_tokens, num_bytes_N=num_bytes_N)
            for logprobs_N in self.logprobs
        ]


@torch.no_grad()  # not inference_mode: tensors that a model caches here must remain usable in training
def completion_logprobs(
    label_logits: LabelLogits,
    sequences: Sequence[TokenSequence],
    *,
    batch_rows: int,
    pad_id: int,
    copies: int = 1,
    rows: RowsHook = nullcontext,
    device: torch.device | str = "cpu",
) -> Likelihoods:
    """Return the log-probability of every completion for each of `copies` slots, which score the same sequences.

    `batch_rows` limits the rows of a forward pass over all slots (at least one row per slot); rows are ordered slot
    after slot, in equal blocks. Longest first, so that there is little padding and out-of-memory errors occur at once.
    The last token is not an input; sequences with equal inputs (one-token options) share one row.
    """
    members: dict[tuple[int, ...], list[int]] = {}
    for index, sequence in enumerate(sequences):
        members.setdefault(sequence.ids[:-1], []).append(index)
    inputs = sorted(members, key=len, reverse=True)
    logprobs_LN = torch.zeros(copies, len(sequences), dtype=torch.float64)
    size = rows_per_copy(batch_rows, copies)
    for start in range(0, len(inputs), size):
        batch = inputs[start : start + size]
        wanted = [(row, sequences[i]) for row, ids in enumerate(batch) for i in members[ids]]
        input_ids_BS = pad_right(batch, pad_id).repeat(copies, 1).to(device)
        with rows(len(batch)):
            logprobs_LT = _label_logprobs(label_logits, input_ids_BS, wanted, copies)
        pieces = torch.split(logprobs_LT, [len(sequence.completion) for _, sequence in wanted], dim=1)
        indices = [i for ids in batch for i in members[ids]]
        logprobs_LN[:, indices] = torch.stack([piece.sum(dim=1) for piece in pieces], dim=1)
    num_tokens_N = torch.tensor([len(sequence.completion) for sequence in sequences])
    return Likelihoods(logprobs=logprobs_LN, num_tokens=num_tokens_N)


def pad_right(inputs: Sequence[Sequence[int]], pad_id: int) -> Tensor:
    """Return token ids (n, S); short rows are filled with `pad_id` at the end."""
    width = max(map(len, inputs))
    return torch.tensor([[*ids, *[pad_id] * (width - len(ids))] for ids in inputs])


def _label_logprobs(
    label_logits: LabelLogits, input_ids_BS: Tensor, wanted: Sequence[tuple[int, TokenSequence]], copies: int
) -> Tensor:
    """Return log-probabilities (L, T) of the completion tokens of `wanted`, end to end, float64 on the CPU."""
    num_inputs, device = len(input_ids_BS) // copies, input_ids_BS.device
    places = [(row, col) for row, s in wanted for col in range(s.prompt_length - 1, len(s.ids) - 1)]
    rows_t, cols_t = torch.tensor(places, device=device).T
    targets_t = torch.tensor([token for _, s in wanted for token in s.completion], device=device)
    rows_T = torch.cat([rows_t + slot * num_inputs for slot in range(copies)])
    logits_TV = label_logits(input_ids_BS, rows_T, cols_t.repeat(copies))
    chunks = zip(torch.split(logits_TV, LOGIT_ROWS), torch.split(targets_t.repeat(copies), LOGIT_ROWS), strict=True)
    logprobs_T = torch.cat([_token_logprobs(logits, targets) for logits, targets in chunks])
    return logprobs_T.reshape(copies, -1).to("cpu").double()


def _token_logprobs(logits_TV: Tensor, targets_T: Tensor) -> Tensor:
    return -torch.nn.functional.cross_entropy(logits_TV.float(), targets_T, reduction="none")
