"""The table of metrics, used by the configuration, the worker, the study and the reports.

To add a metric, write one function from a model's answers to a score per example, and one line in `METRICS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Literal, TypeVar

from evaluation.answers import Choices, Scored, Texts, TokenLosses
from evaluation.text_scores import exact_match, macro_f1, rouge, token_f1

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

T = TypeVar("T")

LOSS = "loss"  # always measured: it orders equal objectives
LOSS_PER_BYTE = "bits_per_byte"  # replaces it if bases differ, because their tokens may differ


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenMean:
    """How a value depends on the mean nats per token over all tokens; long examples have more weight in this mean."""

    to_nats: Callable[[float], float]
    from_nats: Callable[[float], float]
    linear: Callable[[float, float], float]  # mean nats, their deviation -> value, to first order in the deviation
    likelihood_lost: Callable[[Floats, Floats], Floats]  # values before and after -> lost share of a token's likelihood


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric. If it has both, `from_choices` is used if all examples have options, else `from_texts`."""

    direction: Literal["maximize", "minimize"]
    description: str
    from_losses: Callable[[TokenLosses], Scored] | None = None
    from_choices: Callable[[Choices], Scored] | None = None
    from_texts: Callable[[Texts], Scored] | None = None
    token_mean: TokenMean | None = None
    is_mean: bool = True  # value is the mean, or the `token_mean`, of scores; else no interval and no forgetting
    chance: Callable[[Sequence[int]], float] | None = None  # numbers of options -> expected value of guessing
    of_labels: Callable[[Sequence[str], Sequence[str]], float] | None = None  # value if every answer is a label

    @property
    def is_maximized(self) -> bool:
        return self.direction == "maximize"

    @property
    def needs_options(self) -> bool:
        """Whether it can be measured only with answer options."""
        return self.from_choices is not None and self.from_texts is None

    @property
    def can_measure_forgetting(self) -> bool:
        """Whether a drop of this metric is a share of an ability, or of a token's likelihood."""
        return self.is_mean and (self.is_maximized or self.token_mean is not None)


def mean(scores: Sequence[float]) -> float:
    """Return the mean of per-example scores. Raises statistics.StatisticsError, a ValueError, if there are none."""
    return fmean(scores)


def accuracy(predicted: Sequence[int], targets: Sequence[int]) -> list[float]:
    """Return 1 for each chosen index that is the target, else 0. Raises ValueError on unequal lengths."""
    return [float(p == t) for p, t in zip(predicted, targets, strict=True)]


def loss(found: TokenLosses) -> Scored:
    """Return nats per token, per example and over all tokens."""
    value = found.nats_N.sum() / found.num_tokens_N.sum()
    return Scored(value=float(value), scores=tuple((found.nats_N / found.num_tokens_N).tolist()))


def perplexity(found: TokenLosses) -> Scored:
    """Return exp(loss), per example and over all tokens."""
    value = (found.nats_N.sum() / found.num_tokens_N.sum()).exp()
    return Scored(value=float(value), scores=tuple((found.nats_N / found.num_tokens_N).exp().tolist()))


def bits_per_byte(found: TokenLosses) -> Scored:
    """Return bits per byte, per example and over all bytes. An empty answer counts as one byte."""
    bits_N, bytes_N = found.nats_N / math.log(2), found.num_bytes_N.clamp(min=1)
    return Scored(value=float(bits_N.sum() / bytes_N.sum()), scores=tuple((bits_N / bytes_N).tolist()))


def choice_accuracy(found: Choices) -> list[float]:
    return accuracy(found.picks(), found.targets)


def choice_accuracy_per_byte(found: Choices) -> list[float]:
    return accuracy(found.picks(found.num_bytes), found.targets)


def choice_accuracy_per_token(found: Choices) -> list[float]:
    return accuracy(found.picks(found.num_tokens), found.targets)


def choice_macro_f1(found: Choices) -> Scored:
    """Return macro F1 over option indices: the labels of a classification task have the same order in every row."""
    value = macro_f1(list(map(str, found.picks())), list(map(str, found.targets)))
    return Scored(value=value, scores=tuple(choice_accuracy(found)))


def text_macro_f1(found: Texts) -> Scored:
    scores = exact_match(found.predictions, found.references)
    return Scored(value=macro_f1(found.predictions, found.references), scores=tuple(scores))


def guessing(num_options: Sequence[int]) -> float:
    """Return the expected accuracy of guessing among each question's options."""
    return fmean(1 / number for number in num_options)


def share_equal(predictions: Sequence[str], references: Sequence[str]) -> float:
    return fmean(p == r for p, r in zip(predictions, references, strict=True))


def mean_of(score: Callable[[T], Sequence[float]]) -> Callable[[T], Scored]:
    """Return a metric whose value is the mean of these scores."""

    def scored(found: T) -> Scored:
        scores = tuple(score(found))
        return Scored(value=mean(scores), scores=scores)

    return scored


def compared(score: Callable[[Sequence[str], Sequence[str]], list[float]]) -> Callable[[Texts], Scored]:
    """Return a metric whose value is the mean score of predictions against references."""
    return mean_of(lambda found: score(found.predictions, found.references))


def _share_of_likelihood(before: Floats, after: Floats) -> Floats:
    import numpy as np  # only probes need it

    return 1 - np.exp(before - after)


OF_LOSS = TokenMean(
    to_nats=lambda loss: loss,
    from_nats=lambda nats: nats,
    linear=lambda nats, deviation: nats + deviation,
    likelihood_lost=_share_of_likelihood,
)
# Perplexity is a number of equally likely tokens, so its inverse is the likelihood of a token.
OF_PERPLEXITY = TokenMean(
    to_nats=math.log,
    from_nats=math.exp,
    linear=lambda nats, deviation: math.exp(nats) * (1 + deviation),
    likelihood_lost=lambda before, after: 1 - before / after,
)

maximize = partial(Metric, direction="maximize")
minimize = partial(Metric, direction="minimize")

METRICS: dict[str, Metric] = {
    "accuracy": maximize(
        description="share of questions whose right option is most likely",
        from_choices=mean_of(choice_accuracy), chance=guessing, of_labels=share_equal,
    ),
    "accuracy_norm": maximize(
        description="share of questions whose right option is most likely per UTF-8 byte",
        from_choices=mean_of(choice_accuracy_per_byte), chance=guessing, of_labels=share_equal,
    ),
    "accuracy_token": maximize(
        description="share of questions whose right option is most likely per token",
        from_choices=mean_of(choice_accuracy_per_token), chance=guessing, of_labels=share_equal,
    ),
    "exact_match": maximize(
        description="share of answers equal to the reference",
        from_texts=compared(exact_match), of_labels=share_equal,
    ),
    "macro_f1": maximize(
        description="F1 averaged over labels, each label counting the same",
        from_choices=choice_macro_f1, from_texts=text_macro_f1, is_mean=False, of_labels=macro_f1,
    ),
    "rouge1": maximize(
        description="overlap of words with the reference (ROUGE-1 F)",
        from_texts=compared(partial(rouge, name="rouge1")),
    ),
    "rouge2": maximize(
        description="overlap of word pairs with the reference (ROUGE-2 F)",
        from_texts=compared(partial(rouge, name="rouge2")),
    ),
    "rougeL": maximize(
        description="longest common subsequence of words (ROUGE-L F)",
        from_texts=compared(partial(rouge, name="rougeL")),
    ),
    "token_f1": maximize(
        description="overlap of answer tokens (SQuAD F1)", from_texts=compared(token_f1),
    ),
    LOSS: minimize(description="nats per completion token", from_losses=loss, token_mean=OF_LOSS),
    "perplexity": minimize(
        description="exp(loss): how many tokens seem equally likely", from_losses=perplexity, token_mean=OF_PERPLEXITY,
    ),
    # Its value is a ratio of sums too, but a result does not store the bytes of its examples.
    LOSS_PER_BYTE: minimize(
        description="bits per UTF-8 byte of the completion, comparable between tokenizers",
        from_losses=bits_per_byte, is_mean=False,
    ),
}  # fmt: skip
