"""The one process that owns study, ledger and tracker, and tells workers what to do.

A loop over futures: ask, start, advance, tell. A slot that frees is refilled at once, and whatever ends is in the
ledger before anyone else hears of it.
"""

import logging
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress

from lorasweep.forecast import Forecast
from lorasweep.memory import GIB
from lorasweep.placement import Placement, Waiting
from lorasweep.plan import Plan
from lorasweep.record import Record
from lorasweep.result import (
    Command,
    Event,
    Evicted,
    Finished,
    Measured,
    Note,
    Progress,
    Rung,
    Score,
    Scored,
    Start,
    Stop,
    TrialResult,
    TrialState,
)
from lorasweep.rules import read
from lorasweep.seat import Display, Seat
from lorasweep.space import Params
from lorasweep.spec import TrialSpec

log = logging.getLogger(__name__)

POLL_S = 1.0  # how often a full device is looked at again
LAST_SLICE_S = 60.0  # how long a stopped worker may take to come to the end of what it is doing


class Driver:
    """Runs a plan to its end, or until it is asked to stop."""

    def __init__(
        self,
        plan: Plan,
        record: Record,
        display: Display,
        seats: list[Seat],
    ) -> None:
        self.plan, self.record, self.display, self.seats = plan, record, display, seats
        self.study, self.ledger = record.study, record.ledger
        self.forecast, self.placement = Forecast(plan), Placement(plan, display)
        self.params: dict[int, Params] = {}
        self.waiting: deque[tuple[int, Params, TrialSpec]] = deque()
        self.twins: list[tuple[int, Params, TrialSpec]] = []
        self.test_metrics: dict[str, float] = {}
        self.is_stopping = False
        self.deadline = time.monotonic() + 60 * (plan.config.study.timeout_min or float("inf"))

    def run(self) -> None:
        """Run until nothing is left to do; `stop` ends it after the current time slice."""
        self.display.begin(self.plan.num_trials, list(self.ledger.results.values()))
        self._catch_up()
        try:
            while not self.is_stopping and self._fill():
                self._listen()
            self._drain()
            if not self.is_stopping:
                self._score_winner()
        finally:
            self.display.end()
            for seat in self.seats:
                seat.executor.close()

    def stop(self) -> None:
        """Ask for no more; what is live is given up at the end of its time slice."""
        self.is_stopping = True

    @property
    def is_finished(self) -> bool:
        """Tell whether the sweep came to its end: not stopped, and no trial left for want of a worker."""
        left = bool(self.waiting) and time.monotonic() < self.deadline
        return not self.is_stopping and not left and bool(self.seats)

    @property
    def objective(self) -> str:
        return self.plan.config.eval.objective

    def _catch_up(self) -> None:
        """Bring study and tracker up to the ledger, and take up trials that were running."""
        self.record.catch_up()
        if self.plan.is_grid:
            self.study.enqueue(self.plan.points)
        for number, params in self.study.resume():
            self._place(number, params)

    def _fill(self) -> bool:
        """Give every free slot a trial; return whether any worker has something to do, or waits for its device."""
        for seat in [s for s in self.seats if s.answer is None]:
            while seat.num_free and not self.placement.awaits_probe(seat) and (found := self._next(seat)):
                if self.placement.is_full(seat, found[0], found[2]):
                    self.waiting.appendleft(found)
                    self._give_up_where_full(seat)
                    break
                self._start(seat, *found)
            if seat.live or seat.orders:
                seat.answer = seat.executor.submit(self._orders(seat))
        return any(seat.answer or seat.full_since_s is not None for seat in self.seats)

    def _give_up_where_full(self, seat: Seat) -> None:
        if self.placement.has_waited_enough(seat):
            self.seats.remove(seat)
            seat.executor.close()

    def _orders(self, seat: Seat) -> list[Command]:
        """Hand over what is to be done, and note what all live trials together should need."""
        orders, seat.orders = seat.orders, []
        if starts := sum(isinstance(order, Start) for order in orders):
            self.forecast.expect(seat, starts)
        return orders

    def _next(self, seat: Seat) -> Waiting | None:
        """Return a trial for the base that this seat has; for another where nothing lives here and no such comes."""
        while time.monotonic() < self.deadline:
            found = self.placement.of_this_base(seat, self.waiting)
            if found is None and len(self.waiting) < max(seat.num_slots, 2) and self._may_ask():
                self._place(*self.study.ask())
                continue
            found = found or self.placement.of_another_base(seat, self.seats, self.waiting)
            if found is None or not self.placement.fits_beside(seat, found[2]):
                return None
            self.waiting.remove(found)
            if not self._refuses(*found):  # what was measured since it was placed may have shown it to be too large
                return found
        return None

    def _may_ask(self) -> bool:
        """Tell whether the study wants another trial."""
        if self.plan.is_grid:
            return self.study.num_queued > 0
        if self.study.num_asked >= self.plan.num_trials:
            return False
        return len({r.fingerprint for r in self.ledger.results.values()}) < self.plan.num_distinct

    def _place(self, number: int, params: Params) -> None:
        """Find out what a suggestion is: known already, being trained, too large, or to be started."""
        spec = self.plan.spec(params)
        known = next((r for r in self.ledger.results.values() if r.fingerprint == spec.fingerprint), None)
        if known is not None:
            self.record.repeat(number, params, known)
        elif spec.fingerprint in self._busy():
            self.twins.append((number, params, spec))
        elif not self._refuses(number, params, spec):
            self.waiting.append((number, params, spec))

    def _busy(self) -> set[str]:
        live = [start.spec.fingerprint for seat in self.seats for start in seat.live.values()]
        return {*live, *(spec.fingerprint for _, _, spec in self.waiting)}

    def _refuses(self, number: int, params: Params, spec: TrialSpec) -> bool:
        """Record a trial that no device has room for as infeasible."""
        if reason := self._too_large(spec):
            self.params[number] = params
            self._finish(_unmeasured(number, spec, TrialState.INFEASIBLE, reason))
        return bool(reason)

    def _too_large(self, spec: TrialSpec) -> str:
        budget = self.plan.config.study.memory_gib
        device = max(self.plan.devices, key=lambda device: device.most_bytes)
        most = min(device.most_bytes / GIB, budget or float("inf"))
        need = self.plan.footprint([spec]).total / GIB
        if need <= most:
            return ""
        has = "has" if device.is_gpu else "has free"
        limit = f"study.memory_gib={budget:g}" if most == budget else f"the roomiest device {has} {most:.2f} GiB"
        return f"needs {need:.2f} GiB, {limit}; lower the batch size or set model.precision=nf4"

    def _start(self, seat: Seat, number: int, params: Params, spec: TrialSpec) -> None:
        start = Start(number=number, spec=spec, folder=str(self.ledger.trial_folder(number)))
        seat.base = spec.base_key
        seat.live[number] = start
        seat.orders.append(start)
        self.params[number] = params
        self.record.tracked(lambda: self.record.tracker.start(number, params))
        self.display.started(number, params)

    def _listen(self) -> None:
        """Wait for a worker and act on what it says."""
        if not any(seat.answer for seat in self.seats):
            time.sleep(POLL_S)  # every device is full of other people's work
        answers = {seat.answer: seat for seat in self.seats if seat.answer is not None}
        done, _ = wait(answers, timeout=1.0, return_when=FIRST_COMPLETED)
        for future in done:
            seat = answers[future]
            seat.answer = None
            try:
                events = future.result()
            except BrokenProcessPool:
                self._lost(seat)
                continue
            self._hear_all(seat, events)

    def _hear_all(self, seat: Seat, events: Sequence[Event]) -> None:
        """Act on a worker's events; a rung's reports all come before its verdicts, so that all are judged alike."""
        for event in events:
            self._hear(seat, event)
        self._judge(seat, [event for event in events if isinstance(event, Rung) and event.number in seat.live])
        if seat.live and not events:
            for start in list(seat.live.values()):
                self._finish(_unmeasured(start.number, start.spec, TrialState.FAILED, "its worker lost the trial"))
            seat.live.clear()

    def _drain(self) -> None:
        """Let what the workers are doing come to the end of its time slice, and keep what they finished."""
        for seat in self.seats:
            if seat.answer is not None:
                with suppress(TimeoutError, BrokenProcessPool):
                    self._hear_all(seat, seat.answer.result(timeout=LAST_SLICE_S))
                seat.answer = None

    def _lost(self, seat: Seat) -> None:
        """A worker's process died: its trials failed with it, and the seat is given up."""
        self.seats.remove(seat)
        if self.is_stopping:
            return
        for start in list(seat.live.values()):
            reason = f"the worker process on {seat.device} died"
            self._finish(_unmeasured(start.number, start.spec, TrialState.FAILED, reason))

    def _hear(self, seat: Seat, event: Event) -> None:
        if isinstance(event, Progress):
            self.display.progress(event)
        elif isinstance(event, Rung):
            self.display.rung(event)
            self.record.tracked(lambda: self.record.tracker.rung(event))
            self.study.report(event.number, read(event.rung, event.value, event.point.metrics))
        elif isinstance(event, Finished):
            result = self.forecast.settle(seat, event.result)
            seat.live.pop(event.number, None)
            self._finish(result)
        elif isinstance(event, Measured):
            self.forecast.probed(seat, event)
        elif isinstance(event, Evicted):
            self._evict(seat, event)
        elif isinstance(event, Scored):
            self.test_metrics = event.metrics
        elif isinstance(event, Note):
            self.display.say(event.text)

    def _evict(self, seat: Seat, event: Evicted) -> None:
        """A device turned out smaller than predicted: fewer slots from now on, and the trial waits for one."""
        start = seat.live.pop(event.number)
        seat.num_slots = max(1, len(seat.live))
        self.waiting.append((event.number, self.params[event.number], start.spec))
        self.display.say(f"trial {event.number}: {event.reason}; going on with {seat.num_slots} slots on {seat.device}")

    def _judge(self, seat: Seat, events: Sequence[Rung]) -> None:
        pruner = self.plan.config.study.pruner
        verdicts = self.study.verdicts({event.number: event.rung for event in events}) if events else {}
        for event in (event for event in events if event.number in verdicts):
            verdict = verdicts[event.number]
            where = f"{self.objective} {event.value:.4g} at rung {event.rung} (step {event.point.step})"
            words = [f"{pruner} pruner", where, *([verdict.reason] if verdict.reason else [])]
            order = Stop(number=event.number, reason=": ".join(words), rule=verdict.rule or pruner)
            seat.orders.append(order)

    def _finish(self, result: TrialResult) -> None:
        """Record a result, and give it to the suggestions that waited for the same trial."""
        self.record.finish(result, self.params[result.number])
        for twin in [t for t in self.twins if t[2].fingerprint == result.fingerprint]:
            self.twins.remove(twin)
            self.record.repeat(twin[0], twin[1], self.ledger.results[result.number])

    def _score_winner(self) -> None:
        """Score the winner on the test split, once; selection never sees it."""
        winner = self.record.winner()
        if winner is None or not self.plan.facts[winner.spec.data_key].num_test or not self.seats:
            return
        noted = self.ledger.noted("test")
        if noted.get("trial") == winner.number:
            self.test_metrics = noted["metrics"]
            return
        seat = self.seats[0]
        order = Score(number=winner.number, spec=winner.spec, adapter=str(self.ledger.adapter_folder(winner.number)))
        try:
            self._hear_all(seat, seat.executor.submit([order]).result())
        except Exception as error:  # the leaderboard must come, whatever the last measurement ran into
            log.warning("the winner could not be scored on the test split: %s", error)
            return
        self.ledger.note("test", {"trial": winner.number, "metrics": self.test_metrics})


def _unmeasured(number: int, spec: TrialSpec, state: TrialState, reason: str) -> TrialResult:
    """Return the result of a trial that ended outside a worker."""
    return TrialResult(
        number=number,
        state=state,
        spec=spec,
        params={},
        fingerprint=spec.fingerprint,
        reason=reason,
        ended_s=time.time(),
    )
