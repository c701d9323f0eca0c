"""Why trials have no rank, each reason said once."""

from collections.abc import Sequence
from dataclasses import dataclass

from lorasweep.report.figures import one_line
from lorasweep.report.leaderboard import Row
from lorasweep.result import TrialState


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """Trials that ended alike; `whole` is a reason in full, such as a traceback, or all of their reasons."""

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
            alike.setdefault((row.result.state, row.result.stopped_by or headline(row.reason)), []).append(row)
    return [_ending(state, sorted(found, key=lambda row: row.number)) for (state, _), found in alike.items()]


def _ending(state: TrialState, found: Sequence[Row]) -> Ending:
    first, numbers = found[0].reason, tuple(row.number for row in found)
    rule = found[0].result.stopped_by
    if not rule or len(found) == 1:
        return Ending(state=state, numbers=numbers, headline=headline(first), whole=first)
    # A pruner has other figures for every trial.
    every = "\n".join(f"trial {row.number}: {row.reason}" for row in found)
    return Ending(state=state, numbers=numbers, headline=f"by {rule}, the first: {headline(first)}", whole=every)


def headline(reason: str) -> str:
    """Return the line that says most: the last of a traceback, else the first."""
    lines = [line for line in reason.splitlines() if line.strip()] or [""]
    return one_line(lines[-1] if lines[0].startswith("Traceback") else lines[0])
