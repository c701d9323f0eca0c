"""The leaderboard for programs: CSV with one line per row of the leaderboard, JSON with every trial.

Numbers are not formatted; names are dotted.
"""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from lorasweep.core.result import TrialResult
from lorasweep.report.figures import printable
from lorasweep.report.leaderboard import Leaderboard, Row, reason_of
from lorasweep.report.references import Reference
from lorasweep.report.settings import SEED, overrides
from lorasweep.study.selection import measured

COSTS = (
    "num_steps", "num_planned_steps", "wall_s", "train_s", "its_per_s", "tokens_per_s", "predicted_bytes",
    "peak_bytes", "memory_error", "share_bytes", "alone_bytes", "shared_by", "trainable_parameters",
    "trainable_percent", "adapter_bytes",
)  # fmt: skip


def to_csv(board: Leaderboard) -> str:
    """Return one line per row; a cell is empty if a setting had no effect or a value was not measured."""
    names, lines = to_table(board)
    file = io.StringIO()
    writer = csv.DictWriter(file, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return file.getvalue()


def to_table(board: Leaderboard) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the columns, and a mapping per row; a missing value is an absent key or an empty string."""
    lines = [_flat(row, board.objective) for row in board.rows]
    lines += [_flat_reference(one, board.objective) for one in board.references]
    return _header(board, lines), lines


def to_json(board: Leaderboard) -> dict[str, Any]:
    """Return all content of the reports as JSON values."""
    winner = board.winner
    whole = {
        "name": board.name,
        "question": board.question,
        "objective": board.objective,
        "direction": "maximize" if board.is_maximized else "minimize",
        "recommendation": board.recommendation,
        "winner": winner and winner.number,
        "is_recommended": board.is_recommended,
        "better_than_base": board.better_than_base
        if board.better_than_base is None
        else sorted(board.better_than_base),
        "references": [_reference(one) for one in board.references],
        "winner_overrides": winner and overrides(winner.result),
        "optimism": board.optimism,
        "edges": [{**asdict(edge), "place": edge.place} for edge in board.edges],
        "test_metrics": board.test_metrics,
        "swept": board.swept,
        "fixed": board.fixed,
        "notes": board.notes,
        "provenance": board.provenance,
        "rows": [_row(row) for row in board.rows],
        "trials": [_trial(row, result, board.objective) for row in board.rows for result in row.trials],
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
        **_standing(row), **row.settings, "scale": result.spec.lora.scale, **_metrics(row), objective: row.objective,
        **bounds, "num_seeds": row.num_seeds, "spread": row.spread, "trials": " ".join(map(str, row.numbers)),
        **{name: cost[name] for name in COSTS}, "fingerprint": result.fingerprint,
        "stopped_by": result.stopped_by, "reason": row.reason,
    }  # fmt: skip
    return {key: "" if value is None else _plain(value) for key, value in values.items()}


def _flat_reference(reference: Reference, objective: str) -> dict[str, Any]:
    """Return the line of a reference row: its state is its name, and it has neither rank nor number."""
    bounds = reference.interval
    values = {
        "state": reference.name, **reference.settings, **reference.metrics, objective: reference.objective,
        f"{objective}_low": bounds and bounds.low, f"{objective}_high": bounds and bounds.high,
    }  # fmt: skip
    return {key: _plain(value) for key, value in values.items() if value is not None}


def _header(board: Leaderboard, lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the columns in an order that does not depend on the order of trials."""
    standing = ["rank", "trial", "state", "is_tied_with_best", "is_pareto"]
    swept = list(dict.fromkeys(key for row in board.rows for key in row.result.params if key != SEED))
    scores = ["scale", board.objective, f"{board.objective}_low", f"{board.objective}_high", "num_seeds", "spread",
              "trials", "forgetting", "forgetting/low", "forgetting/high"]  # fmt: skip
    known = [*standing, *swept, *scores]
    end = [*COSTS, "fingerprint", "stopped_by", "reason"]
    others = sorted({key for line in lines for key in line} - {*known, *end})
    return [*known, *others, *end]


def _cost(row: Row) -> dict[str, Any]:
    return _cost_of(row.result)


def _cost_of(result: TrialResult) -> dict[str, Any]:
    return {**asdict(result.cost), "memory_error": result.cost.memory_error}


def _metrics(row: Row) -> dict[str, float | None]:
    """Return the means over seeds."""
    return {name: row.configuration.metric(name) for name in row.result.metrics}


def _row(row: Row) -> dict[str, Any]:
    return {
        **_standing(row),
        "trials": row.numbers,
        "num_seeds": row.num_seeds,
        "objective": row.objective,
        "interval": row.interval and [row.interval.low, row.interval.high],
        "spread": row.spread,
        "settings": row.settings,
        "scale": row.result.spec.lora.scale,
        "metrics": _metrics(row),
    }


def _reference(reference: Reference) -> dict[str, Any]:
    found = asdict(reference)
    return {**found, "interval": reference.interval and [reference.interval.low, reference.interval.high]}


def _standing(row: Row) -> dict[str, Any]:
    return {
        "rank": row.rank,
        "trial": row.number,
        "state": row.result.state.value,
        "is_tied_with_best": row.is_tied_with_best,
        "is_pareto": row.is_pareto,
    }


def _plain(value: Any) -> Any:
    return _as_text(printable(value)) if isinstance(value, str) else value


def _as_text(text: str) -> str:
    """Return text that no spreadsheet evaluates: an apostrophe marks formulas as text (OWASP, CSV injection)."""
    is_formula = text.lstrip()[:1] in FORMULA or text[:1] in LEADING
    return f"'{text}" if text and is_formula and not _is_number(text) else text


FORMULA, LEADING = ("=", "+", "-", "@"), ("\t", "\n")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _trial(row: Row, result: TrialResult, objective: str) -> dict[str, Any]:
    """Return a trial with the rank of its row."""
    is_alone = len(row.trials) == 1
    return {
        **_standing(row),
        "trial": result.number,
        "state": result.state.value,
        "objective": measured(result, objective),
        "interval": [row.interval.low, row.interval.high] if row.interval and is_alone else None,
        "params": result.params,
        "params_without_effect": sorted(set(result.params) - set(result.trial.effective)),
        "metrics": result.metrics,
        "probes": [asdict(probe) for probe in result.probes],
        "history": [asdict(point) for point in result.history],
        "samples": [asdict(sample) for sample in result.samples],
        "num_examples": len(result.scores),
        "cost": _cost_of(result),
        "scale": result.spec.lora.scale,
        "spec": asdict(result.spec),
        "fingerprint": result.fingerprint,
        "stopped_by": result.stopped_by,
        "reason": result.reason if row.rank is not None else reason_of(result),
    }


def _jsonable(value: Any) -> Any:
    """Return a value that JSON can hold; NaN and infinity become null."""
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return printable(value) if isinstance(value, str) else value
