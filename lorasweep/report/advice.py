"""Recommend a configuration in sentences, with cheaper alternatives and the certainty of the comparison."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lorasweep.core.result import TrialState
from lorasweep.report.certainty import adapter, certainty, seeds, selection_bias
from lorasweep.report.edges import Edge
from lorasweep.report.figures import count, percent, score, setting
from lorasweep.report.learned import describe, no_recommendation, not_better_than
from lorasweep.report.rate import through_rate
from lorasweep.report.references import Reference
from lorasweep.report.settings import labels

if TYPE_CHECKING:
    from lorasweep.report.leaderboard import Row


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """The computed facts that the advice is based on: see `Leaderboard`."""

    optimism: float | None = None
    edges: tuple[Edge, ...] = ()
    test_metrics: Mapping[str, float] = field(default_factory=dict)
    references: tuple[Reference, ...] = ()
    better_than_base: frozenset[int] | None = None
    num_saved: int = 0  # trials that were interrupted


def advise(rows: Sequence[Row], swept: Sequence[str], objective: str, found: Findings) -> tuple[str, ...]:
    """Return the sentences of advice, the most important first."""
    ranked = [row for row in rows if row.rank]
    if not ranked:
        return (*_nothing(rows, found.num_saved), *_saved(found.num_saved))
    winner, *others = ranked
    if not_better_than(winner, objective, found):
        return (*no_recommendation(ranked, swept, objective, found), *_stopped(rows), *seeds(ranked))
    return (
        f"Use {describe(winner, swept)}: {objective} {_with_interval(winner)} on validation.",
        *selection_bias(ranked, found.optimism),
        *adapter(winner, objective),
        certainty(winner, others),
        *_alternatives(winner, [row for row in others if row.is_tied_with_best], swept),
        *_stopped(rows),
        *seeds(ranked),
        _test(winner, objective, found.test_metrics),
        *_edges(found.edges),
        *_saved(found.num_saved),
        *through_rate([result for row in rows for result in row.trials], swept),
    )


def _with_interval(row: Row) -> str:
    """Write the objective with its interval, and with the standard deviation over seeds if there are several."""
    over = f", mean of {row.num_seeds} seeds with standard deviation {score(row.spread)}" if row.num_seeds > 1 else ""
    if row.interval is None:
        return f"{score(row.objective)}{over}"
    covers = " over examples and seeds" if over else ""
    return (
        f"{score(row.objective)} (95% interval{covers} {score(row.interval.low)} to {score(row.interval.high)}{over})"
    )


def _alternatives(winner: Row, ties: Sequence[Row], swept: Sequence[str]) -> Iterator[str]:
    """Yield tied rows that improve on the winner: the one with fewest parameters, and the one that forgets least."""
    size = winner.result.cost.trainable_parameters
    smaller = [row for row in ties if 0 < row.result.cost.trainable_parameters < size]
    cheapest = min(smaller, key=lambda row: (row.result.cost.trainable_parameters, row.rank), default=None)
    if cheapest:
        saved = f"{count(cheapest.result.cost.trainable_parameters)} trainable parameters instead of {count(size)}"
        yield f"The smallest of these is {describe(cheapest, swept)}: {saved}, {_forgets(cheapest, winner)}."
    least = min(ties, key=lambda row: (_forgetting(row), row.rank), default=winner)
    if least is not cheapest and _forgetting(least) < _forgetting(winner):
        yield f"The one of these with the least forgetting is {describe(least, swept)}: {_forgets(least, winner)}."


def _forgets(row: Row, winner: Row) -> str:
    """Compare forgetting with the winner's; if it was not measured, return the objective."""
    if row.forgetting is None or winner.forgetting is None:
        return f"scoring {score(row.objective)}"
    return f"forgetting {percent(row.forgetting)} instead of {percent(winner.forgetting)}"


def _forgetting(row: Row) -> float:
    return float("inf") if row.forgetting is None else row.forgetting


def _stopped(rows: Sequence[Row]) -> Iterator[str]:
    """Yield how many trials were stopped early, by which rules, and the saved share of the planned steps."""
    results = [result for row in rows for result in row.trials]
    stopped = [result for result in results if result.state is TrialState.PRUNED]
    if not stopped:
        return
    rules = Counter(result.stopped_by or "pruner" for result in stopped)
    by = ", ".join(f"{number} by {rule}" for rule, number in rules.most_common())
    planned = sum(result.cost.num_planned_steps for result in results)
    left = sum(result.cost.num_planned_steps - result.cost.num_steps for result in stopped)
    saved = f", which saved {left / planned:.0%} of the planned steps".replace("%", " %") if planned else ""
    many = "they are" if len(stopped) > 1 else "it is"
    yield f"{len(stopped)} of {len(results)} trials were stopped early ({by}){saved}; {many} not ranked."


def _test(winner: Row, objective: str, test_metrics: Mapping[str, float]) -> str:
    if objective not in test_metrics:
        return "No test split was scored."
    which = f"the adapter of trial {winner.number}" if winner.num_seeds > 1 else "it"
    return f"On the test split, which was not used for selection, {which} scores {score(test_metrics[objective])}."


def _edges(edges: Sequence[Edge]) -> Iterator[str]:
    if not edges:
        return
    names = labels(edge.key for edge in edges)
    places = ", ".join(f"{names[edge.key]}={setting(edge.value)} ({edge.place})" for edge in edges)
    overrides = " ".join(edge.override for edge in edges)
    which = "The override" if len(edges) == 1 else "The overrides"
    yield (
        f"The winner is at the end of the swept range: {places}; values beyond it were not tried. "
        f"{which} {overrides} would extend the range."
    )


def _saved(num_saved: int) -> Iterator[str]:
    if num_saved:
        which, them = ("trials are", "them") if num_saved > 1 else ("trial is", "it")
        yield f"{num_saved} unfinished {which} saved; run the same command to continue {them}."


def _nothing(rows: Sequence[Row], num_saved: int) -> Iterator[str]:
    if not rows:
        yield "No trial has finished yet." if num_saved else "There are no trials yet."
        return
    states = Counter(result.state.value for row in rows for result in row.trials)
    ended = ", ".join(f"{number} {state}" for state, number in sorted(states.items()))
    yield f"No trial can be recommended ({ended}); the table gives the reasons."
