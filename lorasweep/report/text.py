"""The leaderboard in a terminal: the columns and rows that fit, notes on the rest, and the advice."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.table import Table
from rich.text import Text

from lorasweep.core.result import TrialState
from lorasweep.report.columns import Column, columns, reference_cell, shortened
from lorasweep.report.endings import endings
from lorasweep.report.figures import one_line, score
from lorasweep.report.leaderboard import Leaderboard, Row
from lorasweep.report.references import Reference

GAP = 2  # blanks between columns: one for padding, one for the line of the box
STYLES = {
    TrialState.COMPLETE: "",
    TrialState.PRUNED: "dim",
    TrialState.INFEASIBLE: "magenta",
    TrialState.FAILED: "red",
}
MAX_ROWS, FEWEST_ROWS = 30, 5
MAX_CELL = 28  # characters; a long list of modules must not displace the numbers


def to_text(board: Leaderboard, width: int | None = None, max_rows: int = MAX_ROWS) -> RenderableType:
    """Return the table with its notes for `rich.print`. `width`: at most this many characters."""
    return Printed(board, width, max_rows)


def advice(board: Leaderboard) -> RenderableType:
    """Return the title and the advice for `rich.print`."""
    # Text, not str: rich would parse a module list such as [q_proj] as markup.
    title = Text(one_line(board.name), style="bold") + Text(f"  {one_line(board.question)}", style="italic")
    sentences = enumerate(board.advice)
    return Group(
        title,
        *(
            Text(one_line(s), style="bold green" if place == 0 and board.is_recommended else "")
            for place, s in sentences
        ),
    )


def rows_that_fit(board: Leaderboard, console: Console, num_lines: int) -> int:
    """Return how many rows fit on a screen with the notes and `num_lines` more lines, at least `FEWEST_ROWS`."""
    if not console.is_terminal:
        return MAX_ROWS
    notes = len(console.render_lines(to_text(board, console.width, max_rows=0)))
    return max(FEWEST_ROWS, console.height - notes - num_lines)


@dataclass(frozen=True, slots=True)
class Printed:
    """A rich renderable that chooses its columns by the width of the terminal."""

    board: Leaderboard
    width: int | None
    max_rows: int

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        width = min(self.width or options.max_width, options.max_width)
        every = columns(self.board)
        kept = fitting(every, self.board.rows, width, self.board.references)
        if not self.board.rows:
            return
        yield _table(kept, self.board.rows[: self.max_rows], self.board)
        yield from _foot(self.board, [c.title for c in every if c not in kept], self.max_rows, width)


def fitting(
    every: Sequence[Column], rows: Sequence[Row], width: int, references: Sequence[Reference] = ()
) -> list[Column]:
    """Return the columns that fit, in reading order; the most important are chosen first."""
    kept: set[str] = set()
    left = width
    for column in sorted(every, key=lambda c: c.importance):
        need = _width(column, rows, references) + (GAP if kept else 0)
        if need <= left:
            kept.add(column.key)
            left -= need
    return [column for column in every if column.key in kept]


def _width(column: Column, rows: Sequence[Row], references: Sequence[Reference]) -> int:
    cells = [*(_cell(column, row) for row in rows), *(_reference_cell(column, one) for one in references)]
    return max(map(cell_len, [column.title, *cells]))


def _cell(column: Column, row: Row) -> str:
    return shortened(column.cell(row), MAX_CELL)


def _reference_cell(column: Column, reference: Reference) -> str:
    return shortened(reference_cell(column.key, reference), MAX_CELL)


def _table(kept: Sequence[Column], rows: Sequence[Row], board: Leaderboard) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False)
    for column in kept:
        table.add_column(Text(column.title), justify="right" if _is_right(column, rows) else "left", no_wrap=True)
    ranked = [row for row in rows if row.rank is not None]
    for row in ranked:
        style = "bold green" if row.rank == 1 and board.is_recommended else STYLES[row.result.state]
        table.add_row(*(Text(_cell(column, row)) for column in kept), style=style)
    for reference in board.references:
        table.add_row(*(Text(_reference_cell(column, reference)) for column in kept), style="italic")
    for row in rows[len(ranked) :]:
        table.add_row(*(Text(_cell(column, row)) for column in kept), style=STYLES[row.result.state])
    return table


def _is_right(column: Column, rows: Sequence[Row]) -> bool:
    return column.key != "rank" and not column.is_text(rows)


def _foot(board: Leaderboard, left_out: Sequence[str], max_rows: int, width: int) -> Iterator[RenderableType]:
    yield Text("")
    for line in _lines(board, left_out, max_rows, width):
        yield Text(line, style="dim")


def _lines(board: Leaderboard, left_out: Sequence[str], max_rows: int, width: int) -> Iterator[str]:
    hidden = board.rows[max_rows:]
    if hidden:
        yield f"{len(hidden)} more row{'s are' if len(hidden) > 1 else ' is'} in leaderboard.html."
    if left_out:
        yield (
            f"{len(left_out)} column{'s' * (len(left_out) > 1)} hidden at a width of {width} characters "
            f"({', '.join(left_out)}); leaderboard.html has all columns."
        )
    if board.test_metrics:
        yield "Test split, winner: " + ", ".join(f"{k} {score(v)}" for k, v in board.test_metrics.items())
    if board.fixed:
        yield "Same for all: " + ", ".join(f"{key}={value}" for key, value in board.fixed.items())
    yield from (f"Note: {one_line(note)}" for note in board.notes)
    for ending in endings(board.rows):
        yield f"{ending.state.value.capitalize()}: {ending.trials}: {ending.headline}"
