"""Show a running sweep: a live table on a terminal, plain lines elsewhere."""

import sys
import time

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

from lorasweep.core.messages import (
    Finished,
    Listener,
    Note,
    Rung,
    SweepEnded,
    SweepEvent,
    SweepStarted,
    TrialStarted,
)
from lorasweep.core.messages import Progress as TrialProgress
from lorasweep.core.result import TrialResult
from lorasweep.display.progress import SweepProgress, clock
from lorasweep.planning.expected import expected
from lorasweep.planning.plan import Plan

QUIET_S = 10.0  # without a terminal, minimum time between two lines about the live trials
MAX_ROWS = 12  # live trials shown at once


def make_display(plan: Plan) -> Listener:
    """Return a live table on a terminal, lines elsewhere."""
    progress = SweepProgress(plan.config.eval.objective, expected(plan))
    return LiveDisplay(progress) if sys.stdout.isatty() else LineDisplay(progress)


class LineDisplay:
    """One line per event, for logs and pipes."""

    def __init__(self, progress: SweepProgress) -> None:
        self.progress = progress
        self.printed_s = time.monotonic()

    def handle(self, event: SweepEvent) -> None:
        """Print an event."""
        is_new = isinstance(event, TrialProgress) and event.number not in self.progress.paces
        self.progress.handle(event)
        match event:
            case SweepStarted():
                if event.results:
                    num_trials = f"{len(event.results)} of {event.num_trials} trials"
                    _print(f"{num_trials} were finished before and do not run again")
                _print(STARTING)
            case TrialStarted():
                _print(f"trial {event.trial.number:3d} starts    {event.trial.text}")
            case TrialProgress():
                # Until every trial has reported its progress once, the time left cannot be estimated.
                if not is_new and time.monotonic() - self.printed_s >= QUIET_S:
                    self.printed_s = time.monotonic()
                    _print(self._live(event))
            case Rung():
                value = f"{self.progress.objective} {event.value:.4f} at step {event.point.step}"
                _print(f"trial {event.number:3d} rung {event.rung}    {value}")
            case Finished():
                _print(self._ended(event.result))
            case Note():
                _print(event.text)

    def _live(self, event: TrialProgress) -> str:
        return (
            f"{len(self.progress.paces)} live, step {event.step}/{event.num_steps}, loss {event.loss:.3f}, "
            f"{event.its_per_s:.1f} it/s; {_trials(self.progress)}, {_percent(self.progress)} of all steps and "
            f"evaluations{_left(self.progress, ', ')}"
        )

    def _ended(self, result: TrialResult) -> str:
        reason = f"  {result.reason.strip().splitlines()[-1]}" if result.reason else ""
        value = result.metrics.get(self.progress.objective)
        score = "" if value is None else f"{self.progress.objective} {value:.4f}"
        return f"trial {result.number:3d} {result.state.value:9s} {score}{reason}"


def _print(text: str) -> None:
    print(text, flush=True)


class TimeLeft(ProgressColumn):
    """Counts down to the expected end, even while no event arrives, for example during an evaluation."""

    def render(self, task: Task) -> Text:
        """Return the time left, or a note that the estimate was too short."""
        end_s: float | None = task.fields["end_s"]
        if end_s is None:
            return Text("")
        left = end_s - time.monotonic()
        return Text(f"about {clock(left)} left" if left >= 1 else "longer than estimated" if left < -1 else "")


class LiveDisplay:
    """Redraws overall progress, live trials and the best objective in place."""

    def __init__(self, progress: SweepProgress) -> None:
        self.progress = progress
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

    def handle(self, event: SweepEvent) -> None:
        """Redraw after an event; print notes above the table."""
        self.progress.handle(event)
        match event:
            case SweepStarted():
                self.live.start()
                self._draw()
            case TrialProgress() | Rung() | Finished():
                self._draw()
            case Note():
                self.live.console.print(event.text, markup=False, highlight=False)
            case SweepEnded():
                self.live.stop()

    def _draw(self) -> None:
        progress = self.progress
        left = progress.left_s()
        end_s = None if left is None else time.monotonic() + left
        self.bar.update(self.task, completed=progress.share(), trials=_trials(progress), end_s=end_s)
        self.live.update(Group(self.bar, *self._below()))

    def _below(self) -> list[Table | Text]:
        """Return the live trials and the best objective, as `Text`, because rich would parse `[...]` as markup."""
        progress = self.progress
        if not progress.paces:
            return [_line(STARTING if not progress.num_done else f"best so far: {progress.best_text()}")]
        return [self._table(), _line(f"best so far: {progress.best_text()}")]

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False)
        for name in ("trial", "parameters", "step", "loss", "it/s", self.progress.objective, ""):
            table.add_column(name, no_wrap=True, justify="left" if name in ("parameters", "") else "right")
        paces = list(self.progress.paces.values())
        for pace in paces[:MAX_ROWS]:
            table.add_row(*self._cells(pace))
        if len(paces) > MAX_ROWS:
            table.add_row("", f"and {len(paces) - MAX_ROWS} more")
        return table

    def _cells(self, pace: TrialProgress) -> list[str | Text]:
        rung = self.progress.rungs.get(pace.number)
        return [
            str(pace.number),
            Text(self.progress.params.get(pace.number, "")),
            f"{pace.step}/{pace.num_steps}",
            f"{pace.loss:.3f}",
            f"{pace.its_per_s:.1f}",
            "" if rung is None else f"{rung.value:.4f}",
            "evaluating" if self.progress.is_evaluated(pace) else "",
        ]


STARTING = "loading the base and the data, and scoring the probes before training"


def _line(text: str) -> Text:
    return Text(text, no_wrap=True, overflow="ellipsis")


def _trials(progress: SweepProgress) -> str:
    return f"{progress.num_done}/{progress.num_trials} trials"


def _percent(progress: SweepProgress) -> str:
    return f"{100 * progress.share():.0f} %"


def _left(progress: SweepProgress, before: str = "") -> str:
    left = progress.left_s()
    return "" if left is None else f"{before}about {clock(left)} left"
