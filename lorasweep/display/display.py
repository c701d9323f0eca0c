"""What is shown while a sweep runs: a live table on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Mapping, Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from lorasweep.config.grammar import Scalar
from lorasweep.core.result import Progress as Pace
from lorasweep.core.result import Rung, TrialResult
from lorasweep.display.standing import Standing, clock
from lorasweep.driver.worker_handle import Display
from lorasweep.planning.describe import params_text
from lorasweep.planning.expected import expected
from lorasweep.planning.plan import Plan

QUIET_S = 10.0  # without a terminal, a line about the live trials at most this often
MOST_ROWS = 12  # live trials shown at once


def make_display(plan: Plan) -> Display:
    """Return the display that suits where the output goes."""
    standing = Standing(plan.config.eval.objective, expected(plan))
    return LiveDisplay(standing) if sys.stdout.isatty() else LineDisplay(standing)


class LineDisplay:
    """One line per event, for logs and pipes."""

    def __init__(self, standing: Standing) -> None:
        self.standing = standing
        self.spoke_s = time.monotonic()

    def begin(self, num_trials: int, done: Sequence[TrialResult]) -> None:
        """Say how much there is to do."""
        self.standing.begin(num_trials, done)
        if done:
            self.say(f"{len(done)} of {num_trials} trials were finished before and are not run again")
        self.say(STARTING)

    def started(self, number: int, params: Mapping[str, Scalar]) -> None:
        """Say that a trial starts."""
        self.standing.started(number, params)
        self.say(f"trial {number:3d} starts    {params_text(params)}")

    def progress(self, event: Pace) -> None:
        """Say now and then where the live trials are."""
        is_new = event.number not in self.standing.paces  # until all have spoken once, the time left is a wild guess
        self.standing.progress(event)
        if is_new or time.monotonic() - self.spoke_s < QUIET_S:
            return
        self.spoke_s = time.monotonic()
        self.say(
            f"{len(self.standing.paces)} live, step {event.step}/{event.num_steps}, loss {event.loss:.3f}, "
            f"{event.its_per_s:.1f} it/s; {_trials(self.standing)}, {_percent(self.standing)} of all steps and "
            f"evaluations{_left(self.standing, ', ')}"
        )

    def rung(self, event: Rung) -> None:
        """Say what a trial reported."""
        self.standing.rung(event)
        value = f"{self.standing.objective} {event.value:.4f} at step {event.point.step}"
        self.say(f"trial {event.number:3d} rung {event.rung}    {value}")

    def finished(self, result: TrialResult) -> None:
        """Say how a trial ended."""
        self.standing.finish(result)
        reason = f"  {result.reason.strip().splitlines()[-1]}" if result.reason else ""
        self.say(f"trial {result.number:3d} {result.state.value:9s} {self._value(result.metrics)}{reason}")

    def say(self, text: str) -> None:
        """Print a line at once."""
        print(text, flush=True)

    def end(self) -> None:
        """There is nothing to put away."""

    def _value(self, metrics: Mapping[str, float]) -> str:
        value = metrics.get(self.standing.objective)
        return "" if value is None else f"{self.standing.objective} {value:.4f}"


class TimeLeft(ProgressColumn):
    """Counts down to the expected end while no event comes, as in an evaluation."""

    def render(self, task: Task) -> Text:
        """Return the time left, or that the estimate was too short."""
        end_s: float | None = task.fields["end_s"]
        if end_s is None:
            return Text("")
        left = end_s - time.monotonic()
        return Text(f"about {clock(left)} left" if left >= 1 else "longer than estimated" if left < -1 else "")


class LiveDisplay:
    """Overall progress, the live trials and the best so far, redrawn in place."""

    def __init__(self, standing: Standing) -> None:
        self.standing = standing
        self.console = Console()
        self.bar = Progress(
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[trials]}"),
            TimeElapsedColumn(),
            TimeLeft(),
        )
        self.task: TaskID = self.bar.add_task("work", trials="", end_s=None, total=1.0)
        self.live = Live(console=self.console, refresh_per_second=4, transient=True)

    def begin(self, num_trials: int, done: Sequence[TrialResult]) -> None:
        """Open the display."""
        self.standing.begin(num_trials, done)
        self.live.start()
        self._draw()

    def started(self, number: int, params: Mapping[str, Scalar]) -> None:
        """Add a trial."""
        self.standing.started(number, params)

    def progress(self, event: Pace) -> None:
        """Move a trial on."""
        self.standing.progress(event)
        self._draw()

    def rung(self, event: Rung) -> None:
        """Show what a trial reported."""
        self.standing.rung(event)
        self._draw()

    def finished(self, result: TrialResult) -> None:
        """Take a trial off the table."""
        self.standing.finish(result)
        self._draw()

    def say(self, text: str) -> None:
        """Print a line above the display."""
        self.live.console.print(text, markup=False, highlight=False)

    def end(self) -> None:
        """Close the display."""
        self.live.stop()

    def _draw(self) -> None:
        standing = self.standing
        left = standing.left_s()
        end_s = None if left is None else time.monotonic() + left
        self.bar.update(self.task, completed=standing.share(), trials=_trials(standing), end_s=end_s)
        self.live.update(Group(self.bar, *self._below()))

    def _below(self) -> list[Table | Text]:
        """Return the live trials and the best so far, or what is waited for; Text, for a module list is no markup."""
        standing = self.standing
        if not standing.paces:
            return [_line(STARTING if not standing.num_done else f"best so far: {standing.best_words()}")]
        return [self._table(), _line(f"best so far: {standing.best_words()}")]

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False)
        for name in ("trial", "parameters", "step", "loss", "it/s", self.standing.objective, ""):
            table.add_column(name, no_wrap=True, justify="left" if name in ("parameters", "") else "right")
        paces = list(self.standing.paces.values())
        for pace in paces[:MOST_ROWS]:
            table.add_row(*self._cells(pace))
        if len(paces) > MOST_ROWS:
            table.add_row("", f"and {len(paces) - MOST_ROWS} more")
        return table

    def _cells(self, pace: Pace) -> list[str | Text]:
        rung = self.standing.rungs.get(pace.number)
        return [
            str(pace.number),
            Text(params_text(self.standing.params.get(pace.number, {}))),
            f"{pace.step}/{pace.num_steps}",
            f"{pace.loss:.3f}",
            f"{pace.its_per_s:.1f}",
            "" if rung is None else f"{rung.value:.4f}",
            "evaluating" if self.standing.is_evaluated(pace) else "",
        ]


STARTING = "loading the base and the data, and scoring the probes before training"


def _line(text: str) -> Text:
    return Text(text, no_wrap=True, overflow="ellipsis")


def _trials(standing: Standing) -> str:
    return f"{standing.num_done}/{standing.num_trials} trials"


def _percent(standing: Standing) -> str:
    return f"{100 * standing.share():.0f} %"


def _left(standing: Standing, before: str = "") -> str:
    left = standing.left_s()
    return "" if left is None else f"{before}about {clock(left)} left"
