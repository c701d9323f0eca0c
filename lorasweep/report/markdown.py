"""The leaderboard as GitHub-flavoured Markdown, for a README, an issue or an MLflow note."""

import re
from collections.abc import Iterator, Sequence

from lorasweep.report.columns import Column, columns, reference_cell, shortened
from lorasweep.report.endings import headline
from lorasweep.report.figures import one_line, score
from lorasweep.report.leaderboard import Leaderboard, Row

# Characters that could end a cell or start HTML, a link, code or emphasis. An underscore within a word is harmless.
SPECIAL = re.compile(r"[\\`*|<>~]|\[(?=.*\]\()|(?<!\w)_|_(?!\w)")
MAX_REASON = 160
LEGEND = (
    "≈1: does not differ significantly from the best; all pairs are tested together, so that at most 5 % of sweeps "
    "call any two equal trials different. Intervals and tests cover the choice of examples, and the choice of seeds "
    "if a row has several. alpha/r: scale of the adapter's output. Forgetting: mean relative drop over the probes, "
    "positive is worse. (by K): peak of a process in which K trials trained together. ◆: no trial is better in "
    "objective, forgetting and size together."
)


def to_markdown(board: Leaderboard) -> str:
    """Return the whole leaderboard with every column."""
    parts = [f"# {escape(board.name)}", escape(board.question), *_advice(board), _table(board), *_below(board)]
    return "\n\n".join(part for part in parts if part) + "\n"


def escape(text: object) -> str:
    """Return one line of text that Markdown shows unchanged."""
    safe = one_line(text).replace("&", "&amp;")
    return SPECIAL.sub(lambda match: {"<": "&lt;", ">": "&gt;"}.get(match[0], "\\" + match[0]), safe)


def _advice(board: Leaderboard) -> Iterator[str]:
    first, *others = board.advice
    yield f"**{escape(first)}**"
    yield escape(" ".join(others))


def _table(board: Leaderboard) -> str:
    every = columns(board)
    has_reasons = len(board.ranked) < len(board.rows)
    titles = [escape(column.title) for column in every] + ["reason"] * has_reasons
    rules = ["---" if column.is_text(board.rows) else "---:" for column in every] + ["---"] * has_reasons
    rows = [_cells(every, row) + [_reason(row)] * has_reasons for row in board.rows]
    baselines = [[escape(reference_cell(c.key, one)) for c in every] + [""] * has_reasons for one in board.references]
    place = len(board.ranked)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (titles, rules, *rows[:place], *baselines, *rows[place:]))


def _cells(every: Sequence[Column], row: Row) -> list[str]:
    cells = [escape(column.cell(row)) for column in every]
    return [f"**{cell}**" for cell in cells] if row.rank == 1 else cells


def _reason(row: Row) -> str:
    return escape(shortened(headline(row.reason), MAX_REASON))


def _below(board: Leaderboard) -> Iterator[str]:
    if board.test_metrics:
        scores = ", ".join(f"{escape(name)} {score(value)}" for name, value in board.test_metrics.items())
        yield f"**Test split, winner:** {scores}"
    if board.fixed:
        yield "**Same for all:** " + ", ".join(f"{escape(k)} = {escape(v)}" for k, v in board.fixed.items())
    yield from (f"**Note:** {escape(note)}" for note in board.notes)
    yield f"*{escape(LEGEND)}*"
