"""The columns of a leaderboard, shared by all reports for people."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evaluation.statistics import Interval
from lorasweep.report import figures
from lorasweep.report.figures import MISSING, one_line, score
from lorasweep.report.leaderboard import Leaderboard, Row
from lorasweep.report.references import Reference
from lorasweep.report.settings import SCALE_PARTS, labels

Sortable = float | str | None


@dataclass(frozen=True, slots=True)
class Column:
    """A column: the text of a cell, the value to sort by, and its importance (0 is the highest)."""

    key: str
    title: str
    importance: int
    hint: str
    cell: Callable[[Row], str]
    value: Callable[[Row], Sortable]

    def is_text(self, rows: Sequence[Row]) -> bool:
        return any(isinstance(self.value(row), str) for row in rows)


def columns(board: Leaderboard) -> list[Column]:
    """Return the columns that have content, in reading order."""
    found = [
        Column("rank", "#", 0, "rank; ≈1: does not differ significantly from the best", rank, lambda r: r.rank),
        Column("trial", "trial", 1, "trial numbers; costs are those of the first", trial, lambda r: r.number),
        *_settings(board.swept),
        *_scale(board.swept),
        Column("objective", one_line(board.objective), 2, "objective on validation, mean over seeds", _objective,
               lambda r: r.objective),
        Column("interval", "95% interval", 4, "over the choice of examples, and of seeds if there are several",
               interval, _low),
        *_seeds(board),
        *_outcomes(),
        *(_metric(name) for name in board.metrics),
        *_costs(),
        Column("state", "state", 6, "final state of the trial", state, state),
    ]  # fmt: skip
    return [column for column in found if _has_content(column, board)]


def reference_cell(key: str, reference: Reference) -> str:
    """Return a cell of a reference row, which has a name, scores and settings."""
    if key == "trial":
        return reference.name
    if key == "objective":
        return score(reference.objective)
    if key == "interval":
        return _bounds(reference.interval)
    if key in reference.settings:
        return figures.setting(reference.settings[key])
    return score(reference.metrics.get(key))


def rank(row: Row) -> str:
    if row.rank is None:
        return MISSING
    return f"{row.rank} ≈1" if row.is_tied_with_best and row.rank > 1 else str(row.rank)


def trial(row: Row) -> str:
    return ", ".join(map(str, row.numbers))


def interval(row: Row) -> str:
    return _bounds(row.interval)


def _bounds(found: Interval | None) -> str:
    return f"{score(found.low)}\N{EN DASH}{score(found.high)}" if found else MISSING


def state(row: Row) -> str:
    return row.result.state.value


def memory(row: Row) -> str:
    """Write the measured peak, and how many trials shared it."""
    cost = row.result.cost
    peak = figures.size(cost.peak_bytes)
    return f"{peak} (by {cost.shared_by})" if cost.peak_bytes and cost.shared_by > 1 else peak


def shortened(text: str, num_chars: int) -> str:
    return text if len(text) <= num_chars else text[: num_chars - 1] + "…"


def _settings(swept: Sequence[str]) -> list[Column]:
    def one(key: str, title: str) -> Column:
        def value(row: Row) -> Sortable:
            found = row.settings.get(key)
            return found if found is None or isinstance(found, (int, float, str)) else figures.setting(found)

        return Column(key, one_line(title), 3, key, lambda row: figures.setting(row.settings.get(key)), value)

    return [one(key, title) for key, title in labels(swept).items()]


def _scale(swept: Sequence[str]) -> list[Column]:
    """Return the column of the adapter's scale, if a setting that changes it was swept."""
    if not SCALE_PARTS & set(swept):
        return []
    hint = "scale of the adapter's output: lora_alpha / r, with rsLoRA lora_alpha / sqrt(r)"
    return [Column("scale", "alpha/r", 3, hint, lambda row: figures.setting(scale(row)), scale)]


def scale(row: Row) -> float | None:
    return row.result.spec.lora.scale


def _seeds(board: Leaderboard) -> list[Column]:
    """Return the number of seeds and their standard deviation, if any row has several."""
    if all(len(row.trials) == 1 for row in board.rows):
        return []
    return [
        Column("seeds", "seeds", 4, "completed seeds of all trained seeds", seeds, lambda row: row.num_seeds),
        Column("spread", "sd", 4, "standard deviation over seeds", lambda row: score(row.spread), lambda r: r.spread),
    ]


def seeds(row: Row) -> str:
    return str(row.num_seeds) if row.num_seeds == len(row.trials) else f"{row.num_seeds} of {len(row.trials)}"


def _outcomes() -> list[Column]:
    ability = "share of the ability above chance lost, mean over the probes, with its 95% interval; positive is worse"
    likelihood = "share of a token's likelihood lost, mean over the probes scored by loss, with its 95% interval"
    front = "◆: no trial is better in objective, forgetting and size together"
    return [
        _drop("forgetting", "forgetting", 5, ability),
        _drop("forgetting_likelihood", "likelihood lost", 6, likelihood),
        Column("pareto", "Pareto", 12, front, lambda r: "◆" if r.is_pareto else MISSING, lambda r: int(r.is_pareto)),
    ]


def _drop(name: str, title: str, importance: int, hint: str) -> Column:
    def value(row: Row) -> float | None:
        found = row.drop(name)
        return None if found is None else found.value

    return Column(name, title, importance, hint, lambda row: figures.drop(row.drop(name)), value)


def _metric(name: str) -> Column:
    def value(row: Row) -> float | None:
        return row.configuration.metric(name)

    return Column(name, one_line(name), 11, f"{one_line(name)} on validation", lambda row: score(value(row)), value)


def _costs() -> list[Column]:
    return [
        _cost("trainable_parameters", "trainable", 7, "trainable parameters", figures.count),
        _cost("trainable_percent", "of model", 15, "trainable share of all parameters", figures.share_of_model),
        _cost("adapter_bytes", "adapter", 14, "size of the adapter on disk", figures.size),
        Column("peak_bytes", "peak memory", 8, "peak of the process; (by K): of K trials together", memory,
               lambda r: r.result.cost.peak_bytes or None),
        _cost("predicted_bytes", "predicted", 13, "predicted peak memory", figures.size),
        Column("memory_error", "error", 17, "predicted peak above (+) or below (-) the measured one", _memory_error,
               lambda r: r.result.cost.memory_error),
        _cost("share_bytes", "share", 18, "this trial's share of the peak without the base, by prediction",
              figures.size),
        _cost("alone_bytes", "alone", 12, "memory that it needs alone: predicted, corrected by measured peaks",
              figures.size),
        _cost("its_per_s", "it/s", 10, "optimizer steps per second of training", figures.rate),
        _cost("tokens_per_s", "tokens/s", 16, "tokens per second of training", figures.rate),
        _cost("wall_s", "time", 9, "wall time with evaluation", figures.duration),
    ]  # fmt: skip


def _cost(name: str, title: str, importance: int, hint: str, write: Callable[[float], str]) -> Column:
    def value(row: Row) -> float:
        number: float = getattr(row.result.cost, name)
        return number

    return Column(name, title, importance, hint, lambda r: write(value(r)), lambda r: value(r) or None)


def _memory_error(row: Row) -> str:
    return figures.percent(row.result.cost.memory_error)


def _objective(row: Row) -> str:
    return score(row.objective)


def _low(row: Row) -> float | None:
    return row.interval.low if row.interval else None


def _has_content(column: Column, board: Leaderboard) -> bool:
    if column.key == "state":
        return len(board.ranked) < len(board.rows)
    return column.importance <= 2 or any(column.cell(row) != MISSING for row in board.rows)
