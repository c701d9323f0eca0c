"""The lengths of rows, which decide the size of activations, logits and caches."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt
from statistics import fmean, pstdev

from lorasweep.data.render import TokenRow

DEVIATIONS = 3.0  # standard deviations of the longest among some hundred micro-batches above the mean


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Row lengths of a data set, in tokens. `scored`: the longest row in evaluation, with all of its options."""

    longest: int
    mean: float
    deviation: float
    labels: float  # label tokens of an average training row
    scored: int = 0
    scored_labels: float = 0  # mean label tokens of the longest quarter; long rows are scored together
    has_options: bool = False
    prompt: int = 0  # the longest prompt in evaluation

    def batch(self, rows: int) -> int:
        """Return the tokens, without padding, of the longest micro-batch that is likely among many."""
        likely = rows * self.mean + DEVIATIONS * self.deviation * sqrt(rows)
        return min(rows * self.longest, int(likely) + 1)

    def with_scored(self, rows: Sequence[TokenRow]) -> "Lengths":
        """Return the lengths when these rows are evaluated as well."""
        other = lengths_of(rows, rows)
        if other.scored * other.scored_labels <= self.scored * self.scored_labels:
            return replace(self, prompt=max(self.prompt, other.prompt))
        names = ("scored", "scored_labels", "has_options")
        return replace(self, prompt=max(self.prompt, other.prompt), **{n: getattr(other, n) for n in names})


def lengths_of(train: Sequence[TokenRow], evaluated: Sequence[TokenRow]) -> Lengths:
    """Return the lengths of training rows and evaluated rows."""
    sizes = [len(row.ids) for row in train]
    return Lengths(
        longest=max(sizes),
        mean=fmean(sizes),
        deviation=pstdev(sizes),
        labels=fmean(row.num_labels for row in train),
        scored=max(map(_scored, evaluated), default=0),
        scored_labels=fmean(map(_scored_labels, _longest(evaluated))) if evaluated else 0,
        has_options=bool(evaluated) and all(row.options for row in evaluated),
        prompt=max((row.prompt_length for row in evaluated), default=0),
    )


def _longest(rows: Sequence[TokenRow]) -> list[TokenRow]:
    """Return the longest quarter of the rows."""
    return sorted(rows, key=_scored, reverse=True)[: -(-len(rows) // 4)]


def _scored(row: TokenRow) -> int:
    """Return a row's tokens when all of its options follow one prompt."""
    if not row.options:
        return len(row.ids)
    return row.prompt_length + sum(len(option) - 1 for option in row.options)


def _scored_labels(row: TokenRow) -> int:
    return sum(len(option) for option in row.options) if row.options else row.num_labels
