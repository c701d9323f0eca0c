"""What is shown while a sweep runs: a live table on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Mapping, Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from lorasweep.grammar import Scalar
from lorasweep.plan import Plan
from lorasweep.result import Progress as Pace
from lorasweep.result import Rung, TrialResult, TrialState
from lorasweep.score import is_maximized
from lorasweep.seat import Display

QUIET_S = 10.0  # without a terminal, a line about the live trials at most this often
MOST_ROWS = 12  # live trials shown at once


def make_display(plan: Plan) -> Display:
    """Return the display that suits where the output goes."""
    objective = plan.config.eval.objective
    return LiveDisplay(objective) if sys.stdout.isatty() else LineDisplay(objective)


def words(params: Mapping[str, Scalar]) -> str:
    """Write parameters as people say them: `r=8 lora_alpha=16`."""
    return " ".join(f"{key.split('.')[-1]}={value:g}" if isinstance(value, float) else f"{key.split('.')[-1]}={value}"
                    for key, value in params.items())  # fmt: skip


def clock(seconds: float) -> str:
    """Write a duration as minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class Standing:
    """How far the sweep is, and the best so far; shared by both displays."""

    def __init__(self, objective: str) -> None:
        self.objective = objective
        self.began_s = time.monotonic()
        self.num_trials = self.num_done = self.num_before = 0
        self.params: dict[int, Mapping[str, Scalar]] = {}
        self.paces: dict[int, Pace] = {}
        self.values: dict[int, float] = {}
        self.best: TrialResult | None = None

    def begin(self, num_trials: int, done: Sequence[TrialResult]) -> None:
        """Note where the sweep begins; `done` trials were finished by an earlier launch."""
        self.num_trials = num_trials
        for result in done:
            self.finish(result)
        self.num_before = len(done)

    def progress(self, event: Pace) -> None:
        """Note how far a trial is."""
        self.paces[event.number] = event

    def finish(self, result: TrialResult) -> None:
        """Note a result."""
        self.num_done += 1
        self.paces.pop(result.number, None)
        self.values.pop(result.number, None)
        if result.state is TrialState.COMPLETE and result.objective is not None and self._is_better(result.objective):
            self.best = result

    def left_s(self) -> float | None:
        """Return the seconds left, from the steps done so far; None before there are any."""
        steps = sum(p.step / p.num_steps for p in self.paces.values()) + self.num_done - self.num_before
        todo = self.num_trials - self.num_before - steps
        return (time.monotonic() - self.began_s) / steps * max(0.0, todo) if steps > 0 else None

    def best_words(self) -> str:
        """Say what is best so far."""
        if self.best is None or self.best.objective is None:
            return "none yet"
        return f"{self.objective} {self.best.objective:.4g} by trial {self.best.number} ({words(self.best.params)})"

    def _is_better(self, value: float) -> bool:
        if self.best is None or self.best.objective is None:
            return value == value
        return value > self.best.objective if is_maximized(self.objective) else value < self.best.objective


class LineDisplay:
    """One line per event, for logs and pipes."""

    def __init__(self, objective: str) -> None:
        self.standing = Standing(objective)
        self.spoke_s = time.monotonic()

    def begin(self, num_trials: int, done: Sequence[TrialResult]) -> None:
        """Say how much there is to do."""
        self.standing.begin(num_trials, done)
        if done:
            self.say(f"{len(done)} of {num_trials} trials were finished before and are not run again")

    def started(self, number: int, params: Mapping[str, Scalar]) -> None:
        """Say that a trial starts."""
        self.say(f"trial {number:3d} starts    {words(params)}")

    def progress(self, event: Pace) -> None:
        """Say now and then where the live trials are."""
        is_new = event.number not in self.standing.paces  # until all have spoken once, the time left is a wild guess
        self.standing.progress(event)
        if is_new or time.monotonic() - self.spoke_s < QUIET_S:
            return
        self.spoke_s = time.monotonic()
        left = self.standing.left_s()
        rest = f", about {clock(left)} left" if left is not None else ""
        self.say(
            f"{len(self.standing.paces)} live, step {event.step}/{event.num_steps}, loss {event.loss:.3f}, "
            f"{event.its_per_s:.1f} it/s; {self.standing.num_done}/{self.standing.num_trials} done{rest}"
        )

    def rung(self, event: Rung) -> None:
        """Say what a trial reported."""
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


class LiveDisplay:
    """Overall progress, the live trials and the best so far, redrawn in place."""

    def __init__(self, objective: str) -> None:
        self.standing = Standing(objective)
        self.console = Console()
        self.bar = Progress(
            TextColumn("[bold]trials"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
        )
        self.task: TaskID = self.bar.add_task("trials", left="", total=None)
        self.live = Live(console=self.console, refresh_per_second=4, transient=True)

    def begin(self, num_trials: int, done: Sequence[TrialResult]) -> None:
        """Open the display."""
        self.standing.begin(num_trials, done)
        self.bar.update(self.task, total=num_trials, completed=len(done))
        self.live.start()
        self._draw()

    def started(self, number: int, params: Mapping[str, Scalar]) -> None:
        """Add a trial."""
        self.standing.params[number] = params

    def progress(self, event: Pace) -> None:
        """Move a trial on."""
        self.standing.progress(event)
        self._draw()

    def rung(self, event: Rung) -> None:
        """Show what a trial reported."""
        self.standing.values[event.number] = event.value
        self._draw()

    def finished(self, result: TrialResult) -> None:
        """Take a trial off the table."""
        self.standing.finish(result)
        self.bar.update(self.task, completed=self.standing.num_done)
        self._draw()

    def say(self, text: str) -> None:
        """Print a line above the display."""
        self.live.console.print(text, markup=False, highlight=False)

    def end(self) -> None:
        """Close the display."""
        self.live.stop()

    def _draw(self) -> None:
        left = self.standing.left_s()
        self.bar.update(self.task, left="" if left is None else f"about {clock(left)} left")
        self.live.update(Group(self.bar, self._table(), f"best so far: {self.standing.best_words()}"))

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False)
        for name in ("trial", "parameters", "step", "loss", "it/s", self.standing.objective):
            table.add_column(name, no_wrap=True, justify="left" if name == "parameters" else "right")
        paces = list(self.standing.paces.values())
        for pace in paces[:MOST_ROWS]:
            value = self.standing.values.get(pace.number)
            table.add_row(
                str(pace.number),
                words(self.standing.params.get(pace.number, {})),
                f"{pace.step}/{pace.num_steps}",
                f"{pace.loss:.3f}",
                f"{pace.its_per_s:.1f}",
                "" if value is None else f"{value:.4f}",
            )
        if len(paces) > MOST_ROWS:
            table.add_row("", f"and {len(paces) - MOST_ROWS} more")
        return table
