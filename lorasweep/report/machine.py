"""The leaderboard for programs: CSV with one row per trial, JSON with everything.

Numbers are plain and names are dotted.
"""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from lorasweep.report.figures import printable
from lorasweep.report.leaderboard import Leaderboard, Row
from lorasweep.report.settings import overrides

COSTS = (
    "num_steps", "num_planned_steps", "wall_s", "train_s", "its_per_s", "tokens_per_s", "predicted_bytes",
    "peak_bytes", "memory_error", "share_bytes", "alone_bytes", "shared_by", "trainable_parameters",
    "trainable_percent", "adapter_bytes",
)  # fmt: skip


def to_csv(board: Leaderboard) -> str:
    """Return one line per trial; a cell is empty where a setting had no effect or nothing was measured."""
    lines = [_flat(row, board.objective) for row in board.rows]
    names = _header(board, lines)
    file = io.StringIO()
    writer = csv.DictWriter(file, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return file.getvalue()


def to_json(board: Leaderboard) -> dict[str, Any]:
    """Return everything the reports show, as values that JSON can hold."""
    winner = board.winner
    whole = {
        "name": board.name,
        "question": board.question,
        "objective": board.objective,
        "direction": "maximize" if board.is_maximized else "minimize",
        "recommendation": board.recommendation,
        "winner": winner and winner.number,
        "winner_overrides": winner and overrides(winner.result),
        "num_repeats": board.num_repeats,
        "test_metrics": board.test_metrics,
        "swept": board.swept,
        "fixed": board.fixed,
        "notes": board.notes,
        "provenance": board.provenance,
        "trials": [_trial(row) for row in board.rows],
    }
    cleaned: dict[str, Any] = _jsonable(whole)
    return cleaned


def to_json_text(board: Leaderboard) -> str:
    return json.dumps(to_json(board), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _flat(row: Row, objective: str) -> dict[str, Any]:
    result = row.result
    cost = _cost(row)
    bounds = {f"{objective}_low": row.interval.low, f"{objective}_high": row.interval.high} if row.interval else {}
    values = {
        **_standing(row), **row.settings, **result.metrics, objective: row.objective, **bounds,
        **{name: cost[name] for name in COSTS}, "same_as": result.same_as, "fingerprint": result.fingerprint,
        "stopped_by": result.stopped_by, "reason": row.reason,
    }  # fmt: skip
    return {key: "" if value is None else _plain(value) for key, value in values.items()}


def _header(board: Leaderboard, lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the same order whichever trial came first."""
    standing = ["rank", "trial", "state", "is_tied_with_best", "is_pareto"]
    swept = list(dict.fromkeys(key for row in board.rows for key in row.result.params))
    scores = [board.objective, f"{board.objective}_low", f"{board.objective}_high", "forgetting", "forgetting/low",
              "forgetting/high"]  # fmt: skip
    known = [*standing, *swept, *scores]
    end = [*COSTS, "same_as", "fingerprint", "stopped_by", "reason"]
    others = sorted({key for line in lines for key in line} - {*known, *end})
    return [*known, *others, *end]


def _cost(row: Row) -> dict[str, Any]:
    return {**asdict(row.result.cost), "memory_error": row.result.cost.memory_error}


def _standing(row: Row) -> dict[str, Any]:
    return {
        "rank": row.rank,
        "trial": row.number,
        "state": row.result.state.value,
        "is_tied_with_best": row.is_tied_with_best,
        "is_pareto": row.is_pareto,
    }


def _plain(value: Any) -> Any:
    return printable(value) if isinstance(value, str) else value


def _trial(row: Row) -> dict[str, Any]:
    result = row.result
    return {
        **_standing(row),
        "objective": row.objective,
        "interval": row.interval and [row.interval.low, row.interval.high],
        "params": result.params,
        "params_without_effect": sorted(set(result.params) - set(row.settings)),
        "metrics": result.metrics,
        "probes": [asdict(probe) for probe in result.probes],
        "history": [asdict(point) for point in result.history],
        "samples": [asdict(sample) for sample in result.samples],
        "num_examples": len(result.scores),
        "cost": _cost(row),
        "spec": asdict(result.spec),
        "same_as": result.same_as,
        "fingerprint": result.fingerprint,
        "stopped_by": result.stopped_by,
        "reason": row.reason,
    }


def _jsonable(value: Any) -> Any:
    """JSON knows no NaN and no infinity: a number that is none becomes null."""
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return printable(value) if isinstance(value, str) else value
