"""Score texts by how likely a causal language model finds them.

The model is a function from right-padded token ids to logits at chosen positions. That is all the scores need, it lets
an engine skip the logits of prompts, and it hides whether one model or a bank of adapters answers.

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
"""Told, around each forward pass, how many rows each slot is about to get. `nullcontext` where there are no slots."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSequence:
    """A prompt and its completion; the first `prompt_length` ids are given, the rest are scored."""

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
        """Return what metrics are computed from, for each copy; `num_bytes_N` are the completions' sizes in UTF-8."""
        return [
            TokenLosses(nats_N=-logprobs_N, num_tokens_N=self.num_tokens, num_bytes_N=num_bytes_N)
            for logprobs_N in self.logprobs
        ]


@torch.no_grad()  # not inference_mode: tensors a model caches here must stay usable in training
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
    """Log-probability of every completion under each of `copies` slots, which all score the same sequences.

    `batch_rows` bounds the rows of one forward pass over all slots (each slot gets at least one); rows lie slot after
    slot, in equal blocks. Longest first, so that padding is little and running out of memory happens at once. The last
    token is never fed, it predicts nothing; sequences that then look the same (one-token options) share one row.
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
    """(n, S) token ids, short rows filled with `pad_id` at the end."""
    width = max(map(len, inputs))
    return torch.tensor([[*ids, *[pad_id] * (width - len(ids))] for ids in inputs])


def _label_logprobs(
    label_logits: LabelLogits, input_ids_BS: Tensor, wanted: Sequence[tuple[int, TokenSequence]], copies: int
) -> Tensor:
    """(L, T) log-probabilities of the completion tokens of `wanted`, end to end, float64 on the CPU."""
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
