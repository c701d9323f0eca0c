"""The reasons why trials have no rank, grouped so that each is reported once."""

from collections.abc import Sequence
from dataclasses import dataclass

from lorasweep.core.result import TrialResult, TrialState
from lorasweep.report.figures import one_line
from lorasweep.report.leaderboard import Row, reason_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """Trials that ended for the same reason. `whole` is the full reason, such as a traceback, or all reasons."""

    state: TrialState
    numbers: tuple[int, ...]
    headline: str
    whole: str

    @property
    def trials(self) -> str:
        return f"trial{'s' * (len(self.numbers) > 1)} {', '.join(map(str, self.numbers))}"


def endings(rows: Sequence[Row]) -> list[Ending]:
    """Return the endings of all unranked trials, including those in ranked rows."""
    alike: dict[tuple[TrialState, str], list[TrialResult]] = {}
    for row in rows:
        for result in row.trials:
            if result not in row.configuration.ranked:
                key = (result.state, result.stopped_by or headline(reason_of(result)))
                alike.setdefault(key, []).append(result)
    return [_ending(state, sorted(found, key=lambda r: r.number)) for (state, _), found in alike.items()]


def _ending(state: TrialState, found: Sequence[TrialResult]) -> Ending:
    first, numbers = reason_of(found[0]), tuple(result.number for result in found)
    rule = found[0].stopped_by
    if not rule or len(found) == 1:
        return Ending(state=state, numbers=numbers, headline=headline(first), whole=first)
    # A rule gives different figures for every trial.
    every = "\n".join(f"trial {result.number}: {reason_of(result)}" for result in found)
    return Ending(state=state, numbers=numbers, headline=f"by {rule}, the first: {headline(first)}", whole=every)


def headline(reason: str) -> str:
    """Return the most informative line: the last line of a traceback, otherwise the first line."""
    lines = [line for line in reason.splitlines() if line.strip()] or [""]
    return one_line(lines[-1] if lines[0].startswith("Traceback") else lines[0])
