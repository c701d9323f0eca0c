"""Rank the results of a study and report them with their uncertainty, for people and for programs.

The same leaderboard always gives the same bytes, so that reports can be compared with `diff`.
"""

from pathlib import Path

from lorasweep.core.files import write_text
from lorasweep.report.leaderboard import Leaderboard
from lorasweep.report.render import FILES


def write_reports(board: Leaderboard, folder: Path) -> list[Path]:
    """Write the leaderboard in every form and return the files."""
    paths = [folder / name for name in FILES]
    for path in paths:
        write_text(path, FILES[path.name](board))
    return paths
