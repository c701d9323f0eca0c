"""Why trials have no rank, each reason said once."""

from collections.abc import Sequence
from dataclasses import dataclass

from lorasweep.report.figures import one_line
from lorasweep.report.leaderboard import Row
from lorasweep.result import TrialState


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """Trials that ended alike; `whole` is the first one's reason in full, such as a traceback."""

    state: TrialState
    numbers: tuple[int, ...]
    headline: str
    whole: str

    @property
    def who(self) -> str:
        return f"trial{'s' * (len(self.numbers) > 1)} {', '.join(map(str, self.numbers))}"


def endings(rows: Sequence[Row]) -> list[Ending]:
    """Return the endings of all trials without rank."""
    alike: dict[tuple[TrialState, str], list[Row]] = {}
    for row in rows:
        if row.rank is None:
            alike.setdefault((row.result.state, headline(row.reason)), []).append(row)
    return [
        Ending(state=state, numbers=tuple(sorted(r.number for r in found)), headline=text, whole=found[0].reason)
        for (state, text), found in alike.items()
    ]


def headline(reason: str) -> str:
    """Return the line that says most: the last of a traceback, else the first."""
    lines = [line for line in reason.splitlines() if line.strip()] or [""]
    return one_line(lines[-1] if lines[0].startswith("Traceback") else lines[0])
