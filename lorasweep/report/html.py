"""The leaderboard as one HTML file that loads nothing from the network. Jinja escapes all text from users."""

import base64
import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup

from lorasweep.report import figures, svg
from lorasweep.report.columns import Column, columns, memory, reference_cell
from lorasweep.report.endings import endings
from lorasweep.report.leaderboard import Leaderboard, Row
from lorasweep.report.learned import describe
from lorasweep.report.references import Reference
from lorasweep.report.settings import overrides

SCRIPT = "leaderboard.js.j2"
MAX_CURVES = 60  # with more, single lines cannot be told apart


@dataclass(frozen=True, slots=True)
class Cell:
    """A table cell: its text, the key to sort by, and a drawing after the text."""

    key: str
    text: str
    sort: str
    drawing: Markup | str = ""


@dataclass(frozen=True, slots=True)
class Tile:
    """A figure of the winner in large print."""

    title: str
    value: str
    detail: str = ""


def to_html(board: Leaderboard) -> str:
    """Return the page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: figures.printable(value) if type(value) is str else value,
    )
    script = environment.get_template(SCRIPT).render()
    every = _columns(board)
    page = environment.get_template("leaderboard.html.j2").render(
        board=board,
        columns=every,
        cells=[_cells(board, every, row) for row in board.rows],
        references=[_reference_cells(board, every, one) for one in board.references],
        tiles=list(_tiles(board)),
        overrides=overrides(board.winner.result) if board.winner else "",
        chart=_chart(board),
        script=Markup(script),
        script_hash=_hash(script),
        figures=figures,
        endings=endings(board.rows),
    )
    return page.rstrip("\n") + "\n"


def _hash(script: str) -> str:
    """Return the hash of the only script that the page's security policy allows."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _columns(board: Leaderboard) -> list[Column]:
    """Return the columns, with one for curves and without the state, which the first column shows."""
    curve = Column("curve", "curve", 99, f"{board.objective} at each rung", lambda row: "", lambda row: None)
    found = [column for column in columns(board) if column.key != "state"]
    place = next(i for i, column in enumerate(found) if column.key == "objective") + 1
    return [*found[:place], curve, *found[place:]] if _curves(board) else found


def _cells(board: Leaderboard, every: Sequence[Column], row: Row) -> list[Cell]:
    drawings = {"interval": _bar(board, row), "curve": _spark(board, row)}
    return [Cell(c.key, c.cell(row), _sort(c.value(row)), drawings.get(c.key, "")) for c in every]


def _reference_cells(board: Leaderboard, every: Sequence[Column], reference: Reference) -> list[Cell]:
    """Return the cells of a reference row; they sort by their numbers like those of trials."""
    numbers = {**reference.metrics, "objective": reference.objective}
    cells = [(column, reference_cell(column.key, reference)) for column in every]
    return [Cell(c.key, "" if c.key == "curve" else text, _sort(numbers.get(c.key))) for c, text in cells]


def _spark(board: Leaderboard, row: Row) -> Markup | str:
    mine = curve_of(row, board.objective)
    return svg.spark(mine, [*_curves(board), mine]) if mine else ""


def _curves(board: Leaderboard) -> list[list[tuple[float, float]]]:
    return [curve for row in board.ranked if (curve := curve_of(row, board.objective))]


def _sort(value: float | str | None) -> str:
    """Return the key to sort by: a number or a text, empty for missing values, which are sorted last."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return str(value)


def _bar(board: Leaderboard, row: Row) -> Markup | str:
    every = [other.interval for other in board.ranked if other.interval]
    if row.interval is None or board.winner is None or board.winner.objective is None:
        return ""
    return svg.interval_bar(row.interval, every, board.winner.objective)


def curve_of(row: Row, objective: str) -> list[tuple[float, float]]:
    """Return (step, objective) at each rung of the row's first trial."""
    points = ((point.step, point.metrics.get(f"eval/{objective}")) for point in row.result.history)
    return [(step, value) for step, value in points if value is not None and math.isfinite(value)]


def _chart(board: Leaderboard) -> Markup | str:
    """Draw the curves; the winner's comes last, on top."""
    shown = [(row, curve) for row in board.rows[:MAX_CURVES] if len(curve := curve_of(row, board.objective)) > 1]
    framing = [curve for row, curve in shown if row.is_tied_with_best] or [curve for _, curve in shown]
    ends = [curve[-1:] for row, curve in shown if row.rank]
    lines = [(describe(row, board.swept), _kind(row), curve) for row, curve in reversed(shown)]
    return svg.curves(lines, [*framing, *ends]) if shown else ""


def _kind(row: Row) -> str:
    if row.rank == 1:
        return "first"
    return "tied" if row.is_tied_with_best else "other"


def _tiles(board: Leaderboard) -> Iterator[Tile]:
    winner = board.winner
    if winner is None:
        return
    bounds = winner.interval
    detail = f"95% {figures.score(bounds.low)} to {figures.score(bounds.high)}" if bounds else ""
    yield Tile(f"{board.objective}, validation", figures.score(winner.objective), detail)
    if board.optimism is not None:
        yield Tile("expected optimism", figures.score(board.optimism), f"because it is the best of {len(board.ranked)}")
    for name, value in board.test_metrics.items():
        yield Tile(f"{name}, test", figures.score(value), "not used for selection" if name == board.objective else "")
    cost = winner.result.cost
    yield from _drops(winner)
    yield Tile("trainable", figures.count(cost.trainable_parameters), figures.share_of_model(cost.trainable_percent))
    yield Tile("peak memory", memory(winner), f"predicted {figures.size(cost.predicted_bytes)}")
    yield Tile("time", figures.duration(cost.wall_s), f"{figures.rate(cost.its_per_s)} it/s")


def _drops(winner: Row) -> Iterator[Tile]:
    for name, title in (("forgetting", "forgetting"), ("forgetting_likelihood", "likelihood lost")):
        if (found := winner.drop(name)) is not None:
            bounds = figures.drop(found).partition("(")[2].rstrip(")")
            yield Tile(title, figures.percent(found.value), f"95% {bounds}" if bounds else "")
