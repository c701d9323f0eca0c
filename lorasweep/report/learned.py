"""Decide whether the best trial is better than its base, than guessing, and than always answering one label."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from evaluation.metrics import METRICS
from lorasweep.report.figures import score, setting
from lorasweep.report.references import BASE, CHANCE, Reference
from lorasweep.report.settings import labels
from lorasweep.study.selection import tie_breaker

if TYPE_CHECKING:
    from lorasweep.report.advice import Findings
    from lorasweep.report.leaderboard import Row


def not_better_than(winner: Row, objective: str, found: Findings) -> str:
    """Return the name of a reference that the best trial does not beat; empty if it beats all known references."""
    if found.better_than_base is not None and not found.better_than_base:
        return "the untouched base"
    if not METRICS[objective].is_maximized:
        return ""
    low = winner.interval.low if winner.interval else winner.objective
    for reference in found.references:
        if reference.name != BASE and None not in (low, reference.objective) and low <= reference.objective:  # type: ignore[operator]
            return "guessing" if reference.name == CHANCE else "always answering the most frequent training label"
    return ""


def no_recommendation(ranked: Sequence[Row], swept: Sequence[str], objective: str, found: Findings) -> Iterator[str]:
    """Yield why no trial is recommended, and which trial has the best validation loss."""
    winner = ranked[0]
    yield (
        f"No trial is significantly better than {not_better_than(winner, objective, found)}, so none is recommended"
        f"{_leader(ranked, swept, found.references)}."
    )
    rivals = ", ".join(f"{one.name} {score(one.objective)}" for one in found.references if one.objective is not None)
    examples = f"on the same {len(winner.result.scores)} validation examples"
    best = f"{objective} {score(winner.objective)} {examples} ({rivals})"
    yield f"The highest-ranked is {describe(winner, swept)}: {best}."


def describe(row: Row, swept: Sequence[str]) -> str:
    """Describe a row by its trials and its swept settings."""
    names = labels(swept or row.settings)
    values = [f"{name}={setting(row.settings[key])}" for key, name in names.items() if key in row.settings]
    return f"{_trials(row.numbers)} ({', '.join(values)})" if values else _trials(row.numbers)


def _trials(numbers: Sequence[int]) -> str:
    return f"trial{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"


def _leader(ranked: Sequence[Row], swept: Sequence[str], references: Sequence[Reference]) -> str:
    """Describe the row with the lowest loss, in bits per byte if the bases have different tokenizers."""
    metric = tie_breaker(row.result for row in ranked)
    losses = [(value, row) for row in ranked if (value := row.configuration.metric(metric)) is not None]
    if not losses:
        return ""
    lowest, first = min(losses, key=lambda found: found[0])
    bases = [one.metrics[metric] for one in references if one.name == BASE and metric in one.metrics]
    of_bases = f" (base: {', '.join(map(score, bases))})" if bases else ""
    best = f"{score(lowest)}{of_bases}, by {describe(first, swept)}"
    return f"; the lowest validation {metric.replace('_', ' ')} is {best}"
