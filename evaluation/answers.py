"""The answers of a model on a set of examples, as metrics need them, and a metric's scores.

Legend: N examples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """A metric's value on all examples, and its score on each example."""

    value: float
    scores: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLosses:
    """The negative log-likelihood of the right answers; tensors (N,) on the CPU."""

    nats_N: Tensor  # float64, summed over an answer's tokens
    num_tokens_N: Tensor
    num_bytes_N: Tensor  # of the answers in UTF-8


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """The log-probabilities of each question's answer options; `targets` are the indices of the right ones."""

    logprobs: Sequence[Sequence[float]]  # nats, summed over an option's tokens
    num_tokens: Sequence[Sequence[int]]
    num_bytes: Sequence[Sequence[int]]
    targets: Sequence[int]

    def picks(self, lengths: Sequence[Sequence[int]] | None = None) -> list[int]:
        """Return the most likely option of each question; with `lengths`, by log-probability per unit of length."""
        if lengths is None:
            return [most_likely(logprobs) for logprobs in self.logprobs]
        pairs = zip(self.logprobs, lengths, strict=True)
        return [most_likely([x / size for x, size in zip(*pair, strict=True)]) for pair in pairs]


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """The texts that a model wrote, and the reference texts."""

    predictions: Sequence[str]
    references: Sequence[str]


def most_likely(logprobs: Sequence[float]) -> int:
    """Return the first index of the largest number; -1 if one is NaN, so that a broken model scores 0."""
    return -1 if any(map(math.isnan, logprobs)) else max(range(len(logprobs)), key=logprobs.__getitem__)
