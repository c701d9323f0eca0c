"""The one process that owns study, ledger and tracker, and tells workers what to do.

A loop over futures: ask, start, advance, tell. A slot that frees is refilled at once, and whatever ends is in the
ledger before anyone else hears of it.
"""

import logging
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from concurrent.futures.process import BrokenProcessPool

from lorasweep.errors import is_disk_full
from lorasweep.forecast import Forecast
from lorasweep.judge import orders
from lorasweep.lineup import MOST_RETRIES, Item, Lineup
from lorasweep.outbox import Outbox, unmeasured
from lorasweep.placement import Placement
from lorasweep.plan import Plan
from lorasweep.record import Record
from lorasweep.result import (
    Command,
    DiskFull,
    Event,
    Evicted,
    Finished,
    Measured,
    Note,
    Pause,
    Progress,
    Rung,
    Score,
    Scored,
    Start,
    Stop,
    TrialState,
)
from lorasweep.room import Room
from lorasweep.rules import read
from lorasweep.seat import Display, Seat
from lorasweep.streak import Streak

log = logging.getLogger(__name__)

LAST_SLICE_S = 60.0  # how long a stopped worker may take to come to the end of what it is doing
TICK_S = 1.0  # between looks at the clock and the disk


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
        self.lineup = Lineup(record.ledger.results)
        self.room = Room(record.ledger.folder, display.say)
        self.outbox = Outbox(record, self.lineup, self.room, Streak(plan.config.study.halt_after))
        self.test_metrics: dict[str, float] = {}
        self.is_stopping = False
        self.deadline = time.monotonic() + 60 * (plan.config.study.timeout_min or float("inf"))

    def run(self) -> None:
        """Run until nothing is left to do; `stop` ends it after the current time slice."""
        self.display.begin(self.plan.num_trials, list(self.ledger.results.values()))
        try:
            self._catch_up()
            while self._goes_on and self._fill():
                self._listen()
            self._drain()
            if self._goes_on:
                self._score_winner()
        finally:
            self.display.end()
            for seat in self.seats:
                seat.executor.close()

    def stop(self) -> None:
        """Ask for no more; what is live is saved at the end of its time slice."""
        self.is_stopping = True

    @property
    def is_finished(self) -> bool:
        """Tell whether the sweep came to its end: neither stopped nor given up, and nothing waits for a worker."""
        left = bool(self.lineup.waiting) and time.monotonic() < self.deadline
        return self._goes_on and not left and bool(self.seats)

    @property
    def objective(self) -> str:
        return self.plan.config.eval.objective

    @property
    def _goes_on(self) -> bool:
        return not self.is_stopping and not self.outbox.halted

    def _catch_up(self) -> None:
        """Bring study and tracker up to the ledger, and take up trials that were running."""
        self.record.catch_up()
        if self.plan.is_grid:
            self.study.enqueue(self.plan.points)
        for number, params in self.study.resume():
            attempt = min(self.ledger.attempt(number), MOST_RETRIES)
            self._place(Item(number=number, params=params, spec=self.plan.spec(params), attempt=attempt))

    def _fill(self) -> bool:
        """Give every free slot a trial; return whether there is anything to wait for."""
        if not self.room.is_open():
            return True
        self.outbox.send()
        for seat in [s for s in self.seats if s.answer is None and s.is_ready]:
            self._occupy(seat)
            if seat.live or seat.orders:
                self._submit(seat, self._orders(seat))
        is_resting = any(not seat.is_ready for seat in self.seats) and bool(self.lineup.waiting)
        return is_resting or self.room.is_paused or any(s.answer or s.full_since_s is not None for s in self.seats)

    def _occupy(self, seat: Seat) -> None:
        while seat.num_free and self._goes_on and not self.placement.awaits_probe(seat) and (item := self._next(seat)):
            if self.placement.is_full(seat, item.number, item.spec):
                self.lineup.waiting.appendleft(item)
                if self.placement.has_waited_enough(seat):
                    self.seats.remove(seat)
                    seat.executor.close()
                return
            self._start(seat, item)

    def _submit(self, seat: Seat, commands: Sequence[Command]) -> None:
        try:
            seat.submit(commands)
        except BrokenProcessPool:
            self._lost(seat, "died")

    def _orders(self, seat: Seat) -> list[Command]:
        """Hand over what is to be done, and note what all live trials together should need."""
        given, seat.orders = seat.orders, []
        if starts := sum(isinstance(order, Start) for order in given):
            self.forecast.expect(seat, starts)
        return given

    def _next(self, seat: Seat) -> Item | None:
        """Return a trial for the base that this seat has; for another where nothing lives here and no such comes."""
        while time.monotonic() < self.deadline:
            waiting = self.lineup.open_to(seat)
            found = self.placement.of_this_base(seat, waiting)
            if found is None and len(self.lineup.waiting) < max(seat.num_slots, 2) and self._may_ask():
                if not self._ask():
                    return None
                continue
            found = found or self.placement.of_another_base(seat, self.seats, waiting)
            if found is None or not self.placement.fits_beside(seat, found.spec):
                return None
            self.lineup.take(found)
            if not self._refuses(found):  # what was measured since it was placed may have shown it to be too large
                return found
        return None

    def _ask(self) -> bool:
        try:
            number, params = self.study.ask()
        except Exception as error:  # every kind of store has its own
            if not is_disk_full(error):
                raise
            self.room.close("the study cannot be written")
            return False
        self._place(Item(number=number, params=params, spec=self.plan.spec(params)))
        return True

    def _may_ask(self) -> bool:
        """Tell whether the study wants another trial."""
        if self.plan.is_grid:
            return self.study.num_queued > 0
        return self.study.num_asked < self.plan.num_trials and self.lineup.num_distinct < self.plan.num_distinct

    def _place(self, item: Item) -> None:
        """Find out what a suggestion is: known already, too large, or to be started."""
        known = self.lineup.known(item.spec)
        if known is not None:
            self.record.repeat(item.number, item.params, known)
        elif not self._refuses(item):
            self.lineup.add(item)

    def _refuses(self, item: Item) -> bool:
        """Record a trial that no device has room for as infeasible."""
        if reason := self.placement.too_large(item.spec) or self.lineup.hopeless(item.spec):
            self.lineup.params[item.number] = item.params
            self.outbox.finish(unmeasured(item.number, item.spec, TrialState.INFEASIBLE, reason))
        return bool(reason)

    def _start(self, seat: Seat, item: Item) -> None:
        folder = str(self.ledger.trial_folder(item.number))
        start = Start(number=item.number, spec=item.spec, folder=folder, attempt=item.attempt)
        seat.base = item.spec.base_key
        seat.live[item.number] = start
        seat.orders.append(start)
        self.record.tracked(lambda: self.record.tracker.start(item.number, item.params))
        self.display.started(item.number, item.params)

    def _listen(self) -> None:
        """Wait for a worker and act on what it says; look after those that say nothing."""
        answers = {seat.answer: seat for seat in self.seats if seat.answer is not None}
        if not answers:
            time.sleep(TICK_S / 5)
        done, _ = wait(answers, timeout=TICK_S, return_when=FIRST_COMPLETED)
        for future in done:
            self._hear_answer(answers[future])
        for seat in self.seats:
            if silent := seat.silence_s(60 * self.plan.config.study.hang_min):
                self._lost(seat, f"was silent for {silent:.0f} s")

    def _hear_answer(self, seat: Seat) -> None:
        try:
            events = seat.take_answer()
        except BrokenProcessPool:
            self._lost(seat, "died")
            return
        self._hear_all(seat, events)

    def _hear_all(self, seat: Seat, events: Sequence[Event]) -> None:
        """Act on a worker's events; a rung's reports all come before its verdicts, so that all are judged alike."""
        for event in (e for e in events if _is_current(seat, e)):
            self._hear(seat, event)
        rungs = [event for event in events if isinstance(event, Rung) and event.number in seat.live]
        seat.orders += orders(self.study, self.plan.config.study.pruner, self.objective, rungs)
        if seat.live and not events and self._goes_on:
            for start in list(seat.live.values()):
                self.outbox.finish(unmeasured(start.number, start.spec, TrialState.FAILED, "its worker lost the trial"))
            seat.live.clear()

    def _drain(self) -> None:
        """Let what the workers are doing come to the end of its time slice, and have them save what they leave."""
        end = time.monotonic() + LAST_SLICE_S
        busy = [seat for seat in self.seats if seat.answer is not None]
        self._await(busy, end)
        for seat in (s for s in self.seats if s.live and s.answer is None and not s.is_lost):
            live = [order for order in seat.orders if isinstance(order, Stop)]
            seat.orders = []
            self._submit(seat, [*live, Pause()])
        self._await([seat for seat in self.seats if seat.answer is not None], end)

    def _await(self, seats: Sequence[Seat], end_s: float) -> None:
        for seat in seats:
            assert seat.answer is not None
            done, _ = wait([seat.answer], timeout=max(0.0, end_s - time.monotonic()))
            if done:
                self._hear_answer(seat)

    def _lost(self, seat: Seat, how: str) -> None:
        """A worker's process is gone, or as good as gone: its trials go on from their checkpoints in another."""
        orphans = seat.bury()
        if not self._goes_on:
            return
        self.display.say(f"the worker on {seat.device} {how}; its {len(orphans)} trials go on in a new one")
        for start in orphans:
            reason = f"the worker process on {seat.device} {how}"
            self.ledger.note_attempt(start.number, start.attempt + 1, reason)
            if start.attempt < MOST_RETRIES:
                self.lineup.put_back(start, start.attempt + 1)
            else:
                reason = f"{reason}, as it did {MOST_RETRIES} times before"
                self.outbox.finish(unmeasured(start.number, start.spec, TrialState.FAILED, reason))

    def _hear(self, seat: Seat, event: Event) -> None:
        if isinstance(event, Progress):
            self.display.progress(event)
        elif isinstance(event, Rung):
            self._report(event)
        elif isinstance(event, Finished):
            result = self.forecast.settle(seat, event.result)
            seat.live.pop(event.number)
            self.outbox.finish(result)
        elif isinstance(event, Measured):
            self.forecast.probed(seat, event)
        elif isinstance(event, Evicted):
            self._evict(seat, event)
        elif isinstance(event, Scored):
            self.test_metrics = event.metrics
        elif isinstance(event, Note):
            self.display.say(event.text)
        elif isinstance(event, DiskFull):
            self.room.close(event.reason)

    def _report(self, event: Rung) -> None:
        self.display.rung(event)
        self.record.tracked(lambda: self.record.tracker.rung(event))
        try:
            self.study.report(event.number, read(event.rung, event.value, event.point.metrics))
        except Exception as error:  # every kind of store has its own
            if not is_disk_full(error):
                raise
            self.room.close("the study cannot be written")

    def _evict(self, seat: Seat, event: Evicted) -> None:
        """A device turned out smaller than predicted: fewer slots from now on, and the trial waits for one."""
        start = seat.live.pop(event.number)
        seat.num_slots = max(1, len(seat.live))
        self.lineup.put_back(start, start.attempt)
        self.display.say(f"trial {event.number}: {event.reason}; going on with {seat.num_slots} slots on {seat.device}")

    def _score_winner(self) -> None:
        """Score the winner on the test split, once; selection never sees it."""
        winner = self.record.winner()
        if winner is None or not self.plan.facts[winner.spec.data_key].num_test or not self.seats:
            return
        noted = self.ledger.noted("test")
        if noted.get("trial") == winner.number:
            self.test_metrics = noted.get("metrics", {})
            return
        seat = self.seats[0]
        order = Score(number=winner.number, spec=winner.spec, adapter=str(self.ledger.adapter_folder(winner.number)))
        try:
            seat.submit([order])
            self._hear_all(seat, seat.take_answer())
        except Exception as error:  # the leaderboard must come, whatever the last measurement ran into
            log.warning("the winner could not be scored on the test split: %s", error)
            return
        self.ledger.note("test", {"trial": winner.number, "metrics": self.test_metrics})


def _is_current(seat: Seat, event: Event) -> bool:
    """Tell whether what is said of a trial is said by its present attempt."""
    if not isinstance(event, Rung | Finished | Evicted):
        return True
    start = seat.live.get(event.number)
    return start is not None and start.attempt == event.attempt
