"""Every format of a leaderboard, by file name."""

from collections.abc import Callable

from lorasweep.report.html import to_html
from lorasweep.report.leaderboard import Leaderboard
from lorasweep.report.machine import to_csv, to_json, to_json_text
from lorasweep.report.markdown import to_markdown
from lorasweep.report.text import to_text

__all__ = ["FILES", "to_csv", "to_html", "to_json", "to_markdown", "to_text"]

FILES: dict[str, Callable[[Leaderboard], str]] = {
    "leaderboard.md": to_markdown,
    "leaderboard.csv": to_csv,
    "leaderboard.json": to_json_text,
    "leaderboard.html": to_html,
}
