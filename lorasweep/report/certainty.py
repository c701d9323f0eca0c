"""Describe the certainty of the winner in sentences: its significance, its selection bias, and its seeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from lorasweep.report.figures import score
from lorasweep.report.ranking import are_comparable

if TYPE_CHECKING:
    from lorasweep.report.leaderboard import Row


def selection_bias(ranked: Sequence[Row], optimism: float | None) -> Iterator[str]:
    """Yield by how much the best score is expected to be too high, because it is the best of several."""
    if optimism is None:
        return
    by = "less than 0.001" if optimism < 0.0005 else f"about {score(optimism)}"
    over = "examples and seeds" if any(row.num_seeds > 1 for row in ranked) else "examples"
    yield f"Its score is too good by {by}, because it is the best of {len(ranked)} (bootstrap over {over})."


def adapter(winner: Row, objective: str) -> Iterator[str]:
    """Yield which seed's adapter is kept."""
    if winner.num_seeds > 1:
        result = winner.result
        yield (
            f"The adapter comes from trial {result.number} (seed={result.spec.train.seed}, {objective} "
            f"{score(result.objective)}): the first completed seed, because the score of the best seed would be biased."
        )


def certainty(winner: Row, others: Sequence[Row]) -> str:
    """Return from how many other rows the winner differs significantly, and by which test."""
    if not others:
        return "No other configuration was completed, so it was not compared with any."
    compared = [row for row in others if are_comparable(row.configuration, winner.configuration)]
    if not compared:
        return "No other configuration has scores on the same examples, so its lead was not tested."
    examples = f"on the same {len(winner.result.scores)} validation examples"
    seeds = " and over seeds" if any(row.num_seeds > 1 for row in (winner, *compared)) else ""
    by = " by the scores per example" if winner.interval is None else ""
    test = f"{examples}{seeds}{by} (all pairs tested together, at the 5 % level)"
    ties = sum(row.is_tied_with_best for row in compared)
    rest = f"the other {len(compared)}" if len(compared) > 1 else "the only other one"
    left_out = len(others) - len(compared)
    more = f"; {left_out} more could not be compared" if left_out else ""
    if not ties:
        return f"It differs significantly from {rest} {test}{more}."
    if ties == len(compared):
        which = "The only other one does not differ" if ties == 1 else f"None of {rest} differs"
    else:
        which = f"{ties} of {rest} {'do' if ties > 1 else 'does'} not differ"
    return f"{which} significantly from it {test}{more}."


def seeds(ranked: Sequence[Row]) -> Iterator[str]:
    """Yield the limits of a comparison with one seed, and which seeds are missing."""
    winner, most = ranked[0], max(row.num_seeds for row in ranked)
    if most == 1:
        yield (
            "Each was trained with one seed: the comparison covers the choice of examples, but not the choice of seed, "
            "which can change the order."
        )
    elif winner.num_seeds < most:
        yield f"The winner completed {winner.num_seeds} seed{'s' * (winner.num_seeds > 1)}, others up to {most}."
    if lost := sum(len(row.trials) - row.num_seeds for row in ranked):
        yield (
            f"{lost} trial{'s' * (lost > 1)} of ranked rows did not complete: the means over the other seeds may be "
            "too good."
        )
