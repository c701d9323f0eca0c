"""The ranked result of a study as data, which the reports render."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluation.forgetting import FORGETTING
from evaluation.metrics import METRICS
from evaluation.statistics import Interval
from lorasweep.config.grammar import Domain
from lorasweep.core.errors import LoraSweepError
from lorasweep.core.result import TrialResult, TrialState
from lorasweep.report.advice import Findings, advise
from lorasweep.report.edges import Edge, edges
from lorasweep.report.learned import not_better_than
from lorasweep.report.ranking import interval_of, optimism, pareto, tied
from lorasweep.report.references import Reference, better_than_base, references
from lorasweep.report.settings import SEED, fixed, varying
from lorasweep.study.selection import Configuration, finite, in_order

NO_PROBES = (
    "forgetting was not measured, because no probes are set; set probes=general, or your own as "
    "eval.probes={NAME:{path:FILE.jsonl}}."
)
NO_INTERVAL = (
    "{objective} cannot be computed from scores per example, so it has no interval here; ties compare these scores, "
    "not {objective}."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One configuration: the trials that differ only in `train.seed`, often a single trial.

    `rank` is None if no trial is complete with a comparable score. `objective` is the mean over completed seeds, or
    the last reported value of a pruned trial.
    """

    configuration: Configuration
    rank: int | None
    objective: float | None
    interval: Interval | None
    is_tied_with_best: bool
    is_pareto: bool
    adapter: Path | None = None  # folder of the adapter; only the best trials keep theirs

    @property
    def result(self) -> TrialResult:
        """The trial whose adapter, costs, probes and samples are shown: the first completed seed."""
        return self.configuration.result

    @property
    def number(self) -> int:
        return self.result.number

    @property
    def trials(self) -> tuple[TrialResult, ...]:
        """All trials of the configuration, ordered by number."""
        return self.configuration.trials

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers of the trials that the objective is averaged over; of all trials if none is ranked."""
        return tuple(result.number for result in self.configuration.ranked or self.trials)

    @property
    def num_seeds(self) -> int:
        """The number of completed seeds."""
        return len(self.configuration.ranked)

    @property
    def spread(self) -> float | None:
        """The standard deviation of the objective over seeds."""
        return self.configuration.spread

    @property
    def settings(self) -> dict[str, Any]:
        """The swept settings that had an effect on this trial, by dotted name, without the seed."""
        return {key: value for key, value in self.result.trial.effective.items() if key != SEED}

    @property
    def forgetting(self) -> float | None:
        return self.configuration.metric("forgetting")

    def drop(self, name: str) -> Interval | None:
        """Return `forgetting` or `forgetting_likelihood`, the mean over seeds; with an interval only for one seed."""
        value = self.configuration.metric(name)
        if value is None:
            return None
        metrics = self.result.metrics if len(self.configuration.ranked) < 2 else {}
        low, high = (finite(metrics.get(f"{name}/{end}")) for end in ("low", "high"))
        return Interval(value=value, low=math.nan if low is None else low, high=math.nan if high is None else high)

    def load(self, device: str = "cpu") -> tuple[Any, Any]:
        """Return the trained model and its tokenizer: the base with the adapter, loaded by PEFT.

        Args:
            device: the PyTorch device to load it on, such as `cpu` or `cuda:0`.

        Raises:
            LoraSweepError: the adapter was not kept.
            ModelError: the base cannot be loaded.
        """
        if self.adapter is None or not self.adapter.is_dir():
            raise LoraSweepError(
                f"trial {self.number}: its adapter was not kept; set study.keep_adapters to the number of trials that "
                "keep theirs, and run the sweep in another output_dir"
            )
        from lorasweep.models.peft_model import load_peft_model  # imports torch, which reports do not need

        return load_peft_model(self.result.spec.model, self.adapter, device)

    @property
    def reason(self) -> str:
        """The reason why the configuration has no rank."""
        return self.result.reason if self.rank is not None else reason_of(self.result)


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaderboard:
    """A study's rows, best first, with advice and context."""

    name: str
    question: str
    objective: str
    rows: tuple[Row, ...]
    swept: tuple[str, ...]  # dotted names of the settings that vary, in the order of the space
    fixed: dict[str, str]
    advice: tuple[str, ...]
    optimism: float | None = None  # expected bias of the best objective, because it is the best of several
    edges: tuple[Edge, ...] = ()  # of the winner
    test_metrics: dict[str, float] = field(default_factory=dict)  # the winner's
    notes: tuple[str, ...] = ()
    references: tuple[Reference, ...] = ()  # rows without trials: the base, chance and the majority class
    better_than_base: frozenset[int] | None = None  # significantly better trials; None if the base was not scored
    is_recommended: bool = False  # whether the winner is better than the base and than guessing

    @property
    def is_maximized(self) -> bool:
        return METRICS[self.objective].is_maximized

    @property
    def ranked(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.rank is not None)

    @property
    def winner(self) -> Row | None:
        return next(iter(self.ranked), None)

    @property
    def results(self) -> tuple[TrialResult, ...]:
        """All trials, in the order of rows."""
        return tuple(result for row in self.rows for result in row.trials)

    @property
    def recommendation(self) -> str:
        return " ".join(self.advice)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The other metrics of the trials, without forgetting and details such as `probe/...`."""
        names = dict.fromkeys(name for result in self.results for name in result.metrics)
        return tuple(n for n in names if n not in (self.objective, *FORGETTING) and "/" not in n)

    @property
    def provenance(self) -> dict[str, str]:
        """The provenance of the numbers; lists all values if trials differ."""
        found: dict[str, dict[str, None]] = {}
        for result in self.results:
            for key, value in result.provenance.items():
                found.setdefault(key, {})[value] = None
        return {key: ", ".join(values) for key, values in found.items()}


def build_leaderboard(
    results: Sequence[TrialResult],
    *,
    name: str,
    question: str,
    objective: str,
    domains: Mapping[str, Domain] | None = None,
    test_metrics: Mapping[str, float] | None = None,
    notes: Sequence[str] = (),
    num_saved: int = 0,
    adapters: Mapping[int, Path] | None = None,
) -> Leaderboard:
    """Rank the results by their validation objective.

    Args:
        domains: the search space; without it, no edges are found.
        test_metrics: the winner's; they do not change the ranking.
        num_saved: number of interrupted trials that have checkpoints.
        adapters: the folder of the adapter by trial number.
    """
    results = sorted(results, key=lambda result: result.number)
    ranked, others = in_order(results, objective)
    rows = _rows(ranked, others, objective, adapters or {})
    baselines, better = references(ranked, objective), better_than_base(ranked, objective)
    found = Findings(
        references=baselines,
        better_than_base=better,
        optimism=optimism(ranked, objective),
        edges=edges(rows[0].settings, domains or {}) if ranked else (),
        test_metrics=dict(test_metrics or {}),
        num_saved=num_saved,
    )
    swept = varying(results)
    return Leaderboard(
        name=name,
        question=question,
        objective=objective,
        rows=rows,
        swept=swept,
        fixed=fixed(results),
        advice=advise(rows, swept, objective, found),
        optimism=found.optimism,
        edges=found.edges,
        test_metrics=dict(found.test_metrics),
        notes=tuple(dict.fromkeys((*notes, *_own_notes(rows, objective)))),
        references=baselines,
        better_than_base=better,
        is_recommended=bool(ranked) and not not_better_than(rows[0], objective, found),
    )


def reason_of(result: TrialResult) -> str:
    """Return the reason why a trial has no rank."""
    if result.reason:
        return result.reason
    if result.state is TrialState.COMPLETE and finite(result.objective) is not None:
        return "it was scored on different examples than most trials, so it cannot be ranked with them"
    if result.state is TrialState.COMPLETE:
        return f"the objective is not a finite number: {result.objective}"
    return "no reason was recorded"


def _rows(
    ranked: Sequence[Configuration], others: Sequence[Configuration], objective: str, adapters: Mapping[int, Path]
) -> tuple[Row, ...]:
    ties, front = tied(ranked, objective), pareto(ranked, objective)

    def row(found: Configuration, rank: int | None) -> Row:
        return Row(
            configuration=found,
            rank=rank,
            objective=found.objective(objective),
            interval=interval_of(found, objective) if rank else None,
            is_tied_with_best=found.result.number in ties,
            is_pareto=found.result.number in front,
            adapter=adapters.get(found.result.number),
        )

    return (*(row(found, rank) for rank, found in enumerate(ranked, 1)), *(row(found, None) for found in others))


def _own_notes(rows: Sequence[Row], objective: str) -> list[str]:
    has_gap = any(row.rank and row.interval is None and len(row.result.scores) > 1 for row in rows)
    has_probes = any(row.result.spec.eval.probes or row.result.probes for row in rows)
    notes = [NO_INTERVAL.format(objective=objective)] if has_gap else []
    return notes if has_probes or not rows else [NO_PROBES, *notes]
