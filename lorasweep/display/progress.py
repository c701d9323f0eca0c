"""The progress of a sweep: finished and remaining work, the time left, and the best objective so far."""

import math
import time

from evaluation.metrics import METRICS
from lorasweep.core.messages import Finished, Progress, Rung, SweepEvent, SweepStarted, TrialStarted
from lorasweep.core.result import TrialResult, TrialState
from lorasweep.core.rungs import rungs_of
from lorasweep.planning.expected import Expected

KEPT, KEPT_WEIGHT = 0.7, 4  # assumed share of trials that pass a rung, and how many rungs this assumption counts for
SETTLE_S = 2.0  # seconds of training before the time left can be estimated


def clock(seconds: float) -> str:
    """Return a duration as minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class SweepProgress:
    """The progress of a sweep and its best objective. Work is measured in training steps, evaluations included."""

    def __init__(self, objective: str, work: Expected) -> None:
        self.objective, self.work = objective, work
        self.rung_cost, self.last_cost = work.rung_cost, work.last_cost
        self.num_trials = self.num_done = 0
        self.params: dict[int, str] = {}  # of each trial that began, as text
        self.paces: dict[int, Progress] = {}
        self.rungs: dict[int, Rung] = {}  # the last report of each live trial
        self.best: TrialResult | None = None
        self._started_s: dict[int, float] = {}
        self._num_steps: dict[int, int] = {}
        self._training_s: float | None = None  # when the first step began
        self._before = self._done = 0.0  # work of earlier launches, and of this launch
        self._share = 0.0
        self._num_judged = self._num_stopped = 0
        self._is_last_timed = False

    def handle(self, event: SweepEvent) -> None:
        """Update the progress by an event."""
        match event:
            case SweepStarted():
                self._begin(event)
            case TrialStarted():
                self.params[event.trial.number] = event.trial.text
                self._started_s[event.trial.number] = time.monotonic()
            case Progress():
                self._advance(event)
            case Rung():
                self._rung(event)
            case Finished():
                self._finish(event.result)

    def _begin(self, event: SweepStarted) -> None:
        self.num_trials = event.num_trials
        self._before = sum(result.cost.num_steps for result in event.results if result.same_as is None)
        for result in event.results:
            self._count(result)

    def _advance(self, event: Progress) -> None:
        now, before = time.monotonic(), self.paces.get(event.number)
        since_s = now - self._started_s.get(event.number, now)
        # The steps before a trial's checkpoint belong to an earlier launch.
        fresh = min(event.step, math.ceil(event.its_per_s * since_s)) if before is None else event.step - before.step
        if before is None:
            self._before += event.step - fresh
        if self._training_s is None and event.its_per_s > 0:
            self._training_s = now - fresh / event.its_per_s
        self._done += fresh
        self.paces[event.number], self._num_steps[event.number] = event, event.num_steps

    def _rung(self, event: Rung) -> None:
        """Store a trial's report, and the cost of its evaluation."""
        self.rung_cost = event.eval_s * self._speed(event.number) or self.rung_cost
        if not self._is_last_timed and self.work.rung_cost:  # the last evaluation scores more of the same examples
            self.last_cost = self.work.last_cost * self.rung_cost / self.work.rung_cost
        self.rungs[event.number] = event
        self._done += self.rung_cost
        self._num_judged += 1

    def _finish(self, result: TrialResult) -> None:
        """Count a result. A trial that repeats another costs nothing."""
        if result.state is TrialState.COMPLETE and result.same_as is None:
            self.last_cost = result.cost.eval_s * self._speed(result.number) or self.last_cost
            self._is_last_timed = True
            self._done += self.last_cost
        self._num_stopped += result.state is TrialState.PRUNED
        self.paces.pop(result.number, None)
        self.rungs.pop(result.number, None)
        self._count(result)

    def is_evaluated(self, pace: Progress) -> bool:
        """Return whether a trial has reached a rung and not reported it yet."""
        rung = self.rungs.get(pace.number)
        is_rung = pace.step in rungs_of(self.work.evaluation, pace.num_steps)
        return is_rung and (rung is None or rung.point.step < pace.step)

    def share(self) -> float:
        """Return the share of all work that is done, from 0 to 1; it never decreases."""
        left, done = self._left(), self._before + self._done
        if left is not None and done + left > 0:
            self._share = max(self._share, done / (done + left))
        return self._share

    def left_s(self) -> float | None:
        """Return the seconds left, by the speed so far, but at least what the slowest trial needs; None if unknown."""
        left, now = self._left(), time.monotonic()
        if left is None or self._training_s is None or now - self._training_s < SETTLE_S or not self._done:
            return None
        slowest = (self._needs_s(pace) for pace in self.paces.values() if pace.its_per_s)
        return max(left * (now - self._training_s) / self._done, *slowest, 0.0)

    def best_text(self) -> str:
        """Return the best objective so far as text, including live trials."""
        values = {number: rung.value for number, rung in self.rungs.items() if math.isfinite(rung.value)}
        number = (max if METRICS[self.objective].is_maximized else min)(values, key=lambda n: values[n], default=None)
        if number is not None and self._is_better(values[number]):
            place = f"at step {self.rungs[number].point.step} "
            params = self.params.get(number, "")
            return f"{self.objective} {values[number]:.4g} {place}by trial {number} ({params})"
        if self.best is None or self.best.objective is None:
            return "none yet"
        number, params = self.best.number, self.best.trial.text
        return f"{self.objective} {self.best.objective:.4g} by trial {number} ({params})"

    def _count(self, result: TrialResult) -> None:
        self.num_done += 1
        is_complete = result.state is TrialState.COMPLETE and result.objective is not None
        if is_complete and result.objective is not None and self._is_better(result.objective):
            self.best = result

    def _is_better(self, value: float) -> bool:
        if self.best is None or self.best.objective is None:
            return value == value
        return value > self.best.objective if METRICS[self.objective].is_maximized else value < self.best.objective

    def _speed(self, number: int) -> float:
        pace = self.paces.get(number)
        return pace.its_per_s if pace else 0.0

    def _left(self) -> float | None:
        """Return the remaining work in training steps; None until a trial has reported its number of steps."""
        if not self._num_steps:
            return None
        usual = round(sum(self._num_steps.values()) / len(self._num_steps))
        num_waiting = max(0, self.num_trials - self.num_done - len(self.paces))
        live = (self._rest(pace.step, pace.num_steps, pace.number) for pace in self.paces.values())
        return sum(live) + num_waiting * self._rest(0, usual, None)

    def _rest(self, step: int, num_steps: int, number: int | None) -> float:
        """Return the expected work of a trial, minus the expected savings by pruning."""
        rung = self.rungs.get(number) if number is not None else None
        reported = rung.point.step if rung else -1
        chance, total, kept = 1.0, 0.0, self._kept
        for at in dict.fromkeys(rungs_of(self.work.evaluation, num_steps)):
            if at > reported:
                cost = self.last_cost if at == num_steps else self.rung_cost
                total += chance * (max(0, at - step) + cost)
                step, chance = max(step, at), chance * kept
        return total

    @property
    def _kept(self) -> float:
        """Return the share of trials that pass a rung: at first assumed, then increasingly measured."""
        if not self.work.has_pruner:
            return 1.0
        return (KEPT * KEPT_WEIGHT + self._num_judged - self._num_stopped) / (KEPT_WEIGHT + self._num_judged)

    def _needs_s(self, pace: Progress) -> float:
        return (pace.num_steps - pace.step + self.last_cost) / pace.its_per_s
