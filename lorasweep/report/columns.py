"""The columns of a leaderboard, once for all reports that people read."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count as count_up

from lorasweep.report.figures import MISSING, count, duration, one_line, percent, rate, score, setting, share_of_model, size
from lorasweep.report.leaderboard import Leaderboard, Row
from lorasweep.report.settings import labels

Sortable = float | str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column: what it says of a row, how rows sort by it, and how much it matters (0 the most)."""

    key: str
    title: str
    hint: str
    importance: int
    cell: Callable[[Row], str]
    value: Callable[[Row], Sortable]
    is_number: bool = True


def columns(board: Leaderboard) -> list[Column]:
    """Return the columns that have something to say, in reading order."""
    places = count_up(4)
    found = [
        _column("rank", "#", "rank; ≈1 where the data cannot tell it from the best", 0, rank, lambda r: r.rank),
        _column("trial", "trial", "number of the trial", 1, lambda r: str(r.number), lambda r: r.number),
        *_settings(board),
        _column("objective", board.objective, "objective on validation", 2, _objective, lambda r: r.objective),
        _column("interval", "95% interval", "had other examples been drawn", 4, interval, _low),
        *_outcomes(),
        *(_metric(name, next(places) + 20) for name in board.metrics),
        *_costs(),
    ]
    states = {row.result.state for row in board.rows}
    if len(states) > 1 or len(board.ranked) < len(board.rows):
        found.append(_column("state", "state", "how it ended", 6, state, state, is_number=False))
    return [column for column in found if _says_something(column, board)]


def rank(row: Row) -> str:
    if row.rank is None:
        return MISSING
    return f"{row.rank} ≈1" if row.is_tied_with_best and row.rank > 1 else str(row.rank)


def interval(row: Row) -> str:
    return f"{score(row.interval.low)}–{score(row.interval.high)}" if row.interval else MISSING


def state(row: Row) -> str:
    return row.result.state.value


def memory(row: Row) -> str:
    """Write the measured peak, and how many trials had it together."""
    cost = row.result.cost
    return f"{size(cost.peak_bytes)} (by {cost.shared_by})" if cost.shared_by > 1 else size(cost.peak_bytes)


def headline(reason: str) -> str:
    """Return the line that says most: the last of a traceback, else the first."""
    lines = [line for line in reason.splitlines() if line.strip()] or [""]
    return one_line(lines[-1] if lines[0].startswith("Traceback") else lines[0])


def _settings(board: Leaderboard) -> list[Column]:
    def one(key: str, title: str) -> Column:
        return _column(key, title, key, 3, lambda r: setting(r.settings.get(key)), lambda r: _sortable(r.settings.get(key)))

    return [one(key, title) for key, title in labels(board.swept).items()]


def _outcomes() -> list[Column]:
    return [
        _column("forgetting", "forgetting", "mean relative drop over the probes; positive is worse", 5,
                lambda r: percent(r.forgetting), lambda r: r.forgetting),
        _column("pareto", "Pareto", "◆: no trial is better in objective, forgetting and size together", 12,
                lambda r: "◆" if r.is_pareto else MISSING, lambda r: float(r.is_pareto)),
    ]  # fmt: skip


def _metric(name: str, importance: int) -> Column:
    return _column(name, name, f"{name} on validation", importance,
                   lambda r: score(r.result.metrics.get(name)), lambda r: r.result.metrics.get(name))  # fmt: skip


def _costs() -> list[Column]:
    return [
        _column("trainable_parameters", "trainable", "trainable parameters", 7,
                lambda r: count(r.result.cost.trainable_parameters), lambda r: r.result.cost.trainable_parameters),
        _column("trainable_percent", "of model", "trainable share of all parameters", 15,
                lambda r: share_of_model(r.result.cost.trainable_percent), lambda r: r.result.cost.trainable_percent),
        _column("adapter_bytes", "adapter", "size of the adapter on disk", 14,
                lambda r: size(r.result.cost.adapter_bytes), lambda r: r.result.cost.adapter_bytes),
        _column("peak_bytes", "peak memory", "measured peak of the process; (by K): K trials had it together", 8,
                memory, lambda r: r.result.cost.peak_bytes),
        _column("predicted_bytes", "predicted", "memory predicted before the start", 13,
                lambda r: size(r.result.cost.predicted_bytes), lambda r: r.result.cost.predicted_bytes),
        _column("its_per_s", "it/s", "optimizer steps per second of training", 10,
                lambda r: rate(r.result.cost.its_per_s), lambda r: r.result.cost.its_per_s),
        _column("tokens_per_s", "tokens/s", "tokens per second of training", 16,
                lambda r: rate(r.result.cost.tokens_per_s), lambda r: r.result.cost.tokens_per_s),
        _column("wall_s", "time", "wall time, evaluation included", 9,
                lambda r: duration(r.result.cost.wall_s), lambda r: r.result.cost.wall_s),
    ]  # fmt: skip


def _column(
    key: str,
    title: str,
    hint: str,
    importance: int,
    cell: Callable[[Row], str],
    value: Callable[[Row], Sortable],
    is_number: bool = True,
) -> Column:
    return Column(key=key, title=one_line(title), hint=hint, importance=importance, cell=cell, value=value, is_number=is_number)


def _objective(row: Row) -> str:
    return score(row.objective)


def _low(row: Row) -> float | None:
    return row.interval.low if row.interval else None


def _sortable(value: object) -> Sortable:
    return value if value is None or isinstance(value, (int, float, str)) else setting(value)


def _says_something(column: Column, board: Leaderboard) -> bool:
    return column.importance <= 2 or any(column.cell(row) != MISSING for row in board.rows)
