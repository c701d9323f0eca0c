"""Say in sentences how sure the winner is: by which test, over which examples and seeds, and how flattered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from lorasweep.report.figures import score
from lorasweep.report.ranking import are_comparable

if TYPE_CHECKING:
    from lorasweep.report.leaderboard import Row


def flattery(ranked: Sequence[Row], optimism: float | None) -> Iterator[str]:
    """Say by how much picking the best is expected to flatter its score."""
    if optimism is None:
        return
    by = "less than 0.001" if optimism < 0.0005 else f"about {score(optimism)}"
    over = "examples and seeds" if any(row.num_seeds > 1 for row in ranked) else "examples"
    yield f"Picking the best of {len(ranked)} flatters its score by {by} (bootstrap over {over})."


def adapter(winner: Row, objective: str) -> Iterator[str]:
    """Say which of the seeds' adapters it is."""
    if winner.num_seeds > 1:
        result = winner.result
        yield (
            f"The adapter is the one of trial {result.number} (seed={result.spec.train.seed}, {objective} "
            f"{score(result.objective)}), the first of the seeds, whatever they scored: picking the best would flatter."
        )


def certainty(winner: Row, others: Sequence[Row]) -> str:
    """Say from how many others the winner differs significantly, and by which test."""
    if not others:
        return "It is the only one that was completed, so there is nothing to compare it with."
    compared = [row for row in others if are_comparable(row.configuration, winner.configuration)]
    if not compared:
        return "No other has scores on the same examples, so its lead was not tested."
    asked = f"on the same {len(winner.result.scores)} validation examples"
    seeds = " and over seeds" if any(row.num_seeds > 1 for row in (winner, *compared)) else ""
    by = " by the scores of single examples" if winner.interval is None else ""
    test = f"{asked}{seeds}{by} (all pairs tested together, at the 5 % level)"
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
    """Say what one seed cannot say, and where seeds are missing."""
    winner, most = ranked[0], max(row.num_seeds for row in ranked)
    if most == 1:
        yield (
            "Each was trained with one seed: the comparison covers which examples were asked, not how another seed "
            "would have trained them, which can change the order."
        )
    elif winner.num_seeds < most:
        yield f"The winner completed {winner.num_seeds} seed{'s' * (winner.num_seeds > 1)}, others up to {most}."
    if lost := sum(len(row.trials) - row.num_seeds for row in ranked):
        yield f"{lost} trial{'s' * (lost > 1)} of ranked rows did not complete: means over the other seeds may flatter."
