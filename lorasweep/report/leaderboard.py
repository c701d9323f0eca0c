"""The ranked, statistically honest result of a study: data only, which every report renders in its own way."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evaluation.statistics import Interval
from lorasweep.report.advice import advise
from lorasweep.report.ranking import finite, in_order, interval_of, is_maximized, measured, pareto, tied
from lorasweep.report.settings import effective, fixed, varying
from lorasweep.result import TrialResult, TrialState

DROPS = ("forgetting", "forgetting_likelihood")
NO_PROBES = (
    "forgetting was not measured, because no probes are set; set probes=general, or your own as "
    "eval.probes={NAME:{path:FILE.jsonl}}."
)
NO_INTERVAL = (
    "{objective} is not a mean over examples, so it has no interval here; ties compare the scores of single examples."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One trial. `objective` is the last one reported where the trial was pruned; only complete trials have a rank."""

    result: TrialResult
    rank: int | None
    objective: float | None
    interval: Interval | None
    is_tied_with_best: bool
    is_pareto: bool

    @property
    def number(self) -> int:
        return self.result.number

    @property
    def settings(self) -> dict[str, Any]:
        """The swept settings that had an effect on this trial, by dotted name."""
        return effective(self.result)

    @property
    def forgetting(self) -> float | None:
        return finite(self.result.metrics.get("forgetting"))

    def drop(self, name: str) -> Interval | None:
        """Return `forgetting` or `forgetting_likelihood` with its 95 % interval; older results have none stored."""
        value, low, high = (finite(self.result.metrics.get(key)) for key in (name, f"{name}/low", f"{name}/high"))
        if value is None:
            return None
        return Interval(value=value, low=math.nan if low is None else low, high=math.nan if high is None else high)

    @property
    def reason(self) -> str:
        """Why the trial has no rank."""
        if self.result.reason or self.rank is not None:
            return self.result.reason
        if self.result.same_as is not None:
            return f"the same trial as {self.result.same_as}"
        if self.result.state is TrialState.COMPLETE and finite(self.result.objective) is not None:
            return "it was scored on other examples than most trials, so it cannot be ranked with them"
        if self.result.state is TrialState.COMPLETE:
            return f"the objective is no finite number: {self.result.objective}"
        return "no reason was recorded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaderboard:
    """A study's rows, best first, with what is needed to read them."""

    name: str
    question: str
    objective: str
    rows: tuple[Row, ...]
    swept: tuple[str, ...]  # dotted names of the settings that vary, in the order of the space
    fixed: dict[str, str]
    advice: tuple[str, ...]
    num_repeats: int = 0
    test_metrics: dict[str, float] = field(default_factory=dict)  # the winner's
    notes: tuple[str, ...] = ()

    @property
    def is_maximized(self) -> bool:
        return is_maximized(self.objective)

    @property
    def ranked(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.rank is not None)

    @property
    def winner(self) -> Row | None:
        return next(iter(self.ranked), None)

    @property
    def recommendation(self) -> str:
        return " ".join(self.advice)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The other metrics of the trials themselves; `probe/...` and the like are details."""
        names = dict.fromkeys(name for row in self.rows for name in row.result.metrics)
        return tuple(n for n in names if n not in (self.objective, *DROPS) and "/" not in n)

    @property
    def provenance(self) -> dict[str, str]:
        """Where the numbers came from; trials that differ are all named."""
        found: dict[str, dict[str, None]] = {}
        for row in self.rows:
            for key, value in row.result.provenance.items():
                found.setdefault(key, {})[value] = None
        return {key: ", ".join(values) for key, values in found.items()}


def build_leaderboard(
    results: Sequence[TrialResult],
    *,
    name: str,
    question: str,
    objective: str,
    num_repeats: int = 0,
    test_metrics: Mapping[str, float] | None = None,
    notes: Sequence[str] = (),
) -> Leaderboard:
    """Rank the results by their validation objective; `test_metrics` are the winner's and rank nothing."""
    results = sorted(results, key=lambda result: result.number)
    rows = _rows(results, objective)
    swept = varying(results)
    test = dict(test_metrics or {})
    return Leaderboard(
        name=name,
        question=question,
        objective=objective,
        rows=rows,
        swept=swept,
        fixed=fixed(results),
        advice=advise([row for row in rows if row.rank], rows, swept, objective, num_repeats, test),
        num_repeats=num_repeats,
        test_metrics=test,
        notes=(*notes, *_own_notes(rows, objective)),
    )


def _rows(results: Sequence[TrialResult], objective: str) -> tuple[Row, ...]:
    ranked, others = in_order(results, objective)
    ties, front = tied(ranked, objective), pareto(ranked, objective)

    def row(result: TrialResult, rank: int | None) -> Row:
        return Row(
            result=result,
            rank=rank,
            objective=measured(result, objective),
            interval=interval_of(result) if rank else None,
            is_tied_with_best=result.number in ties,
            is_pareto=result.number in front,
        )

    return (*(row(r, rank) for rank, r in enumerate(ranked, 1)), *(row(r, None) for r in others))


def _own_notes(rows: Sequence[Row], objective: str) -> list[str]:
    has_gap = any(row.rank and row.interval is None and len(row.result.scores) > 1 for row in rows)
    has_probes = any(row.result.spec.eval.probes or row.result.probes for row in rows)
    notes = [NO_INTERVAL.format(objective=objective)] if has_gap else []
    return notes if has_probes or not rows else [NO_PROBES, *notes]
