"""Say in sentences what to use, what would do as well for less, and how sure that is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from lorasweep.report.figures import count, percent, score, setting
from lorasweep.report.ranking import is_comparable
from lorasweep.report.settings import labels
from lorasweep.result import TrialState

if TYPE_CHECKING:
    from lorasweep.report.leaderboard import Row

ONE_SEED = "Each trial was trained once, with one seed: another seed may change the order."


def advise(
    ranked: Sequence[Row],
    rows: Sequence[Row],
    swept: Sequence[str],
    objective: str,
    test_metrics: Mapping[str, float],
) -> tuple[str, ...]:
    """Return the sentences, the most important first."""
    if not ranked:
        return (_nothing(rows),)
    winner, *others = ranked
    return (
        f"Use {describe(winner, swept)}: {objective} {_with_interval(winner)} on validation.",
        _certainty(winner, others),
        *_alternatives(winner, [row for row in others if row.is_tied_with_best], swept),
        *_stopped(rows),
        ONE_SEED,
        _test(objective, test_metrics),
    )


def describe(row: Row, swept: Sequence[str]) -> str:
    """Name a trial by its number and the settings that make it different."""
    names = labels(swept or row.settings)
    values = [f"{name}={setting(row.settings[key])}" for key, name in names.items() if key in row.settings]
    return f"trial {row.number} ({', '.join(values)})" if values else f"trial {row.number}"


def _with_interval(row: Row) -> str:
    if row.interval is None:
        return score(row.objective)
    return f"{score(row.objective)} (95% interval {score(row.interval.low)} to {score(row.interval.high)})"


def _certainty(winner: Row, others: Sequence[Row]) -> str:
    asked = len(winner.result.scores)
    compared = [row for row in others if is_comparable(row.result, winner.result)]
    if not others:
        return "It is the only trial that was completed, so there is nothing to compare it with."
    if not compared:
        return "There are no scores per example, so nobody can say how sure the order is."
    ties = sum(row.is_tied_with_best for row in compared)
    rest = f"the other {len(compared)} complete trials" if len(compared) > 1 else "the only other complete trial"
    if not ties:
        return f"It is better than {rest} on the same {asked} validation examples, beyond chance."
    if ties == len(compared) == 1:
        return f"The only other complete trial cannot be told from it on {asked} validation examples."
    return f"{ties} of {rest} cannot be told from it on {asked} validation examples."


def _alternatives(winner: Row, ties: Sequence[Row], swept: Sequence[str]) -> Iterator[str]:
    """Yield the tied trial with the fewest parameters and the one that forgets least, where they beat the winner."""
    size = winner.result.cost.trainable_parameters
    smaller = [row for row in ties if 0 < row.result.cost.trainable_parameters < size]
    cheapest = min(smaller, key=lambda row: (row.result.cost.trainable_parameters, row.rank), default=None)
    if cheapest:
        saved = f"{count(cheapest.result.cost.trainable_parameters)} trainable parameters instead of {count(size)}"
        yield f"The cheapest of these is {describe(cheapest, swept)}: {saved}, {_forgets(cheapest, winner)}."
    gentle = min(ties, key=lambda row: (_lost(row), row.rank), default=winner)
    if gentle is not cheapest and _lost(gentle) < _lost(winner):
        yield f"The one of these that forgets least is {describe(gentle, swept)}: {_forgets(gentle, winner)}."


def _forgets(row: Row, winner: Row) -> str:
    """Compare the forgetting, or the objective where it was not measured."""
    if row.forgetting is None or winner.forgetting is None:
        return f"scoring {score(row.objective)}"
    return f"forgetting {percent(row.forgetting)} instead of {percent(winner.forgetting)}"


def _lost(row: Row) -> float:
    return float("inf") if row.forgetting is None else row.forgetting


def _stopped(rows: Sequence[Row]) -> Iterator[str]:
    """Say how many trials were stopped early, by which rules, and what that saved."""
    rules = Counter(row.result.stopped_by or "pruner" for row in rows if row.result.state is TrialState.PRUNED)
    if not rules:
        return
    by = ", ".join(f"{number} by {rule}" for rule, number in rules.most_common())
    planned = sum(row.result.cost.num_planned_steps for row in rows)
    trained = sum(row.result.cost.num_steps for row in rows)
    saved = f", which saved {1 - trained / planned:.0%} of the planned steps".replace("%", " %") if planned else ""
    yield f"{rules.total()} of {len(rows)} trials were stopped early ({by}){saved}."


def _test(objective: str, test_metrics: Mapping[str, float]) -> str:
    if objective in test_metrics:
        return f"On the test split, which chose nothing, it scores {score(test_metrics[objective])}."
    return "No test split was scored, and the best of many validation scores flatters itself."


def _nothing(rows: Sequence[Row]) -> str:
    if not rows:
        return "There are no trials yet."
    states = Counter(row.result.state.value for row in rows)
    ended = ", ".join(f"{number} {state}" for state, number in sorted(states.items()))
    return f"No trial can be recommended ({ended}); the reasons stand in the table."
