"""The one process that owns study, ledger and tracker, and tells workers what to do.

A loop over futures: ask, start, advance, tell. A slot that frees is refilled at once, and whatever ends is in the
ledger before anyone else hears of it.
"""

import logging
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import TypeGuard

from lorasweep.core.errors import is_device_error
from lorasweep.core.files import redact_values
from lorasweep.core.result import (
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
    TrialResult,
    TrialState,
)
from lorasweep.driver.disk_guard import Room
from lorasweep.driver.failures import last_line
from lorasweep.driver.memory_budget import Forecast
from lorasweep.driver.outbox import Outbox, unmeasured
from lorasweep.driver.placement import Placement
from lorasweep.driver.queue import Item, Lineup
from lorasweep.driver.recorder import Record
from lorasweep.driver.retries import Retries, how_it_died
from lorasweep.driver.scheduler import Supply
from lorasweep.driver.worker_handle import Display, Seat
from lorasweep.planning.plan import Plan
from lorasweep.study.judge import Judge
from lorasweep.study.rules import read

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
        self.outbox = Outbox(record, self.lineup, self.room)
        self.judge = Judge(record.study, plan.config.study.pruner, plan.config.eval.objective)
        self.supply = Supply(plan, record, self.lineup, self.placement, self.outbox)
        self.retries = Retries(self.supply, self.outbox, display, plan.config.study.halt_after)
        self.test_metrics: dict[str, float] = {}
        self.is_stopping = False

    def run(self) -> None:
        """Run until nothing is left to do; `stop` ends it after the current time slice."""
        self.display.begin(self.plan.most_trials, list(self.ledger.results.values()))
        try:
            self.record.catch_up()
            self.supply.take_up()
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
        return self._goes_on and not self.supply.is_left and bool(self.seats)

    @property
    def _goes_on(self) -> bool:
        return not self.is_stopping and not self.outbox.halted

    def _fill(self) -> bool:
        """Give every free slot a trial; return whether there is anything to wait for."""
        if not self.room.is_open():
            return True
        self.outbox.send()
        resting = [seat for seat in self.seats if not seat.is_ready]
        for seat in [s for s in self.seats if s.answer is None and s not in resting]:
            self._occupy(seat)
            if seat.live or seat.orders:
                self._submit(seat, self._orders(seat))
        # A pause may have ended since, and one may have begun.
        is_resting = (bool(resting) or any(not seat.is_ready for seat in self.seats)) and self.supply.has_more
        return is_resting or self.room.is_paused or any(s.answer or s.full_since_s is not None for s in self.seats)

    def _occupy(self, seat: Seat) -> None:
        while seat.num_free and self._goes_on and not self.placement.awaits_probe(seat):
            item = self.supply.next(seat, self.seats)
            if item is None:
                return
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
        except Exception as error:
            self._worker_raised(seat, error)

    def _orders(self, seat: Seat) -> list[Command]:
        """Hand over what is to be done, and note what all live trials together should need."""
        given, seat.orders = seat.orders, []
        if starts := sum(isinstance(order, Start) for order in given):
            self.forecast.expect(seat, starts)
        return given

    def _start(self, seat: Seat, item: Item) -> None:
        folder = str(self.ledger.trial_folder(item.number))
        start = Start(number=item.number, spec=item.spec, folder=folder, attempt=item.attempt)
        seat.base = item.spec.base_key
        seat.live[item.number] = start
        seat.orders.append(start)
        self.record.courier.start(item.number, item.params, item.spec)
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
        except Exception as error:
            self._worker_raised(seat, error)
            return
        self._hear_all(seat, events)

    def _worker_raised(self, seat: Seat, error: Exception) -> None:
        if isinstance(error, BrokenProcessPool):
            how, is_outside = how_it_died(seat.executor.exit_code)
            self._lost(seat, how, is_outside=is_outside)
        elif is_device_error(str(error)):
            self._lost(seat, f"failed: {last_line(str(error))}")
        else:
            raise error

    def _hear_all(self, seat: Seat, events: Sequence[Event]) -> None:
        """Act on a worker's events; a rung's reports all come before its verdicts, so that all are judged alike."""
        current = [event for event in events if _is_current(seat, event)]
        broken = [event.result.reason for event in current if _is_of_device(event)]
        for event in (e for e in current if not _is_of_device(e)):
            self._hear(seat, event)
        rungs = [event for event in events if isinstance(event, Rung) and event.number in seat.live]
        seats = {number: seat for seat in self.seats for number in seat.live}
        for stop in self.judge.hear(rungs, seats):
            seats[stop.number].orders.append(stop)
        if broken:
            self._lost(seat, f"failed: {last_line(broken[0])}")
        if seat.live and not events and self._goes_on:
            for start in list(seat.live.values()):
                lost = unmeasured(start.number, start.spec, TrialState.FAILED, "its worker lost the trial")
                self._finish(seat, lost)

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

    def _lost(self, seat: Seat, how: str, *, is_outside: bool = False) -> None:
        """A worker's process is gone, or as good as gone: its trials go on from their checkpoints in another."""
        if self._goes_on:
            self.retries.failed(seat, self.seats, how, is_outside=is_outside)
        else:
            seat.fail(how)

    def _hear(self, seat: Seat, event: Event) -> None:
        if isinstance(event, Progress):
            self.display.progress(event)
        elif isinstance(event, Rung):
            self._report(event)
            self.retries.works(seat)
        elif isinstance(event, Finished):
            self._finish(seat, self.forecast.settle(seat, event.result))
        elif isinstance(event, Measured):
            self.forecast.probed(seat, event)
        elif isinstance(event, Evicted):
            self._evict(seat, event)
        elif isinstance(event, Scored):
            self.test_metrics = event.metrics
        elif isinstance(event, Note):
            text = redact_values(event.text)
            self.display.say(text)
            self.outbox.put(partial(self.record.note, text))
        elif isinstance(event, DiskFull):
            self.room.close(event.reason)

    def _finish(self, seat: Seat, result: TrialResult) -> None:
        del seat.live[result.number]
        self.outbox.finish(result)
        if result.state in (TrialState.COMPLETE, TrialState.PRUNED):
            self.retries.works(seat)
        self.retries.ended(seat, self.seats, result)

    def _report(self, event: Rung) -> None:
        self.display.rung(event)
        self.record.courier.rung(event)
        reading = read(event.rung, event.value, event.point.metrics)
        self.outbox.put(lambda: self.study.report(event.number, reading))

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
        seat = min(self.seats, key=lambda seat: len(seat.failures))  # a device that works
        self.display.say(f"scoring trial {winner.number} on the test split")
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


def _is_of_device(event: Event) -> TypeGuard[Finished]:
    """Tell whether a trial ended because the device failed, so that it is to go on elsewhere."""
    return (
        isinstance(event, Finished) and event.result.state is TrialState.FAILED and is_device_error(event.result.reason)
    )
