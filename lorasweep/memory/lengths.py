"""How long rows are: what activations, logits and caches grow with."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt
from statistics import fmean, pstdev

from lorasweep.data.render import TokenRow

DEVIATIONS = 3.0  # of the longest of some hundred micro-batches above the mean one


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Tokens of a data set's rows. `scored` ones are those that evaluation reads, all of their options included."""

    longest: int
    mean: float
    deviation: float
    labels: float  # label tokens of an average training row
    scored: int = 0
    scored_labels: float = 0  # of an average one of the longest, which are scored together
    has_options: bool = False
    prompt: int = 0  # the longest one that an answer is written after

    def batch(self, rows: int) -> int:
        """Return the tokens of the longest micro-batch that is likely among many, without padding."""
        likely = rows * self.mean + DEVIATIONS * self.deviation * sqrt(rows)
        return min(rows * self.longest, int(likely) + 1)

    def with_scored(self, rows: Sequence[TokenRow]) -> "Lengths":
        """Return the same with these rows evaluated as well, where their evaluation is larger."""
        other = lengths_of(rows, rows)
        if other.scored * other.scored_labels <= self.scored * self.scored_labels:
            return replace(self, prompt=max(self.prompt, other.prompt))
        names = ("scored", "scored_labels", "has_options")
        return replace(self, prompt=max(self.prompt, other.prompt), **{n: getattr(other, n) for n in names})


def lengths_of(train: Sequence[TokenRow], judged: Sequence[TokenRow]) -> Lengths:
    """Measure the rows that train and those that are evaluated."""
    sizes = [len(row.ids) for row in train]
    return Lengths(
        longest=max(sizes),
        mean=fmean(sizes),
        deviation=pstdev(sizes),
        labels=fmean(row.num_labels for row in train),
        scored=max(map(_scored, judged), default=0),
        scored_labels=fmean(map(_scored_labels, _longest(judged))) if judged else 0,
        has_options=bool(judged) and all(row.options for row in judged),
        prompt=max((row.prompt_length for row in judged), default=0),
    )


def _longest(rows: Sequence[TokenRow]) -> list[TokenRow]:
    """Return the longest quarter."""
    return sorted(rows, key=_scored, reverse=True)[: -(-len(rows) // 4)]


def _scored(row: TokenRow) -> int:
    """Return a row's tokens when all of its options lie behind one prompt."""
    if not row.options:
        return len(row.ids)
    return row.prompt_length + sum(len(option) - 1 for option in row.options)


def _scored_labels(row: TokenRow) -> int:
    return sum(len(option) for option in row.options) if row.options else row.num_labels
