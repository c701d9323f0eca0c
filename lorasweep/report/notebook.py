"""The leaderboard in a notebook: advice, table and notes. All text from users is escaped."""

from collections.abc import Iterable

from markupsafe import Markup

from lorasweep.report.columns import columns, reference_cell
from lorasweep.report.figures import printable
from lorasweep.report.leaderboard import Leaderboard

PAGE = Markup(
    "<div><p><strong>{}</strong> <em>{}</em></p>{}"
    '<div style="overflow-x: auto"><table><thead>{}</thead><tbody>{}</tbody></table></div>{}</div>'
)


def to_notebook(board: Leaderboard) -> str:
    """Return an HTML fragment."""
    every = columns(board)
    head = _line("<th>{}</th>", (column.title for column in every))
    rows = [_line("<td>{}</td>", (column.cell(row) for column in every)) for row in board.rows]
    rows += [_line("<td>{}</td>", (reference_cell(column.key, one) for column in every)) for one in board.references]
    advice = _all("<p>{}</p>", board.advice)
    notes = _all("<p><small>Note: {}</small></p>", board.notes)
    return str(PAGE.format(printable(board.name), printable(board.question), advice, head, _join(rows), notes))


def _line(cell: str, texts: Iterable[str]) -> Markup:
    return Markup("<tr>{}</tr>").format(_all(cell, texts))


def _all(template: str, texts: Iterable[str]) -> Markup:
    return _join(Markup(template).format(printable(text)) for text in texts)


def _join(parts: Iterable[Markup]) -> Markup:
    return Markup("").join(parts)
