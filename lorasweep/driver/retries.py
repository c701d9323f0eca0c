"""Whether a device failed or the trial that ran on it, and how often a trial is run again.

A failure counts against the device until the device works again. Then it was not the device, and counts as a try of
the trials that ran there. So a dead device uses up no trial's tries, and a trial that ends every worker has used up
its tries once those devices have run others. A worker that was killed from outside uses up no try, but no trial is
started more than `MOST_ATTEMPTS` times.
"""

import re
from collections import Counter
from collections.abc import Sequence
from functools import partial

from lorasweep.core.result import Start, TrialResult, TrialState
from lorasweep.core.spec import TrialSpec
from lorasweep.driver.failures import Streak
from lorasweep.driver.outbox import Outbox, unmeasured
from lorasweep.driver.queue import MOST_RETRIES
from lorasweep.driver.scheduler import Supply
from lorasweep.driver.worker_handle import BENCHED_AFTER, Display, Seat

MOST_ATTEMPTS = 10  # of one trial, whatever ended its workers
SIGNALS_FROM_OUTSIDE = (1, 2, 9, 15)  # HUP, INT, KILL, TERM: a program that crashes gets others


class Retries:
    """Decides what follows when a device fails, when it works again, and when a trial ends."""

    def __init__(self, supply: Supply, outbox: Outbox, display: Display, halt_after: int) -> None:
        self.supply, self.outbox, self.display, self.halt_after = supply, outbox, display, halt_after
        self.lineup, self.ledger, self.streak = outbox.lineup, outbox.record.ledger, Streak(halt_after)
        self.tries: Counter[int] = Counter()
        self.reasons: dict[int, str] = {}

    def failed(self, seat: Seat, seats: Sequence[Seat], how: str, *, is_outside: bool = False) -> None:
        """End a device's worker; its trials go on from their checkpoints, elsewhere where another device works."""
        pause_s = seat.pause_s
        orphans = seat.fail(how, is_outside=is_outside)
        where = "in a new one" if len(seats) == 1 else "in another"
        self.display.say(f"the worker on {seat.device} {how}; its {len(orphans)} trials go on {where}")
        if seat.is_benched:
            self.display.say(
                f"{seat.device} failed {len(seat.failures)} times in a row: no trial for {pause_s:.0f} s, "
                "then one at a time until one reaches a rung"
            )
        for start in orphans:
            self._put_back(start, seats, f"the worker process on {seat.device} {how}")
        self.outbox.halted = self.outbox.halted or devices_agree(seats, self.halt_after)

    def works(self, seat: Seat) -> None:
        """Take in that a trial reached a rung or its end: what failed before on this device was not the device's."""
        failures = [failure for failure in seat.recover() if not failure.is_outside]
        self.tries.update(number for failure in failures for number in failure.numbers)
        for number in sorted({number for failure in failures for number in failure.numbers}):
            if self.tries[number] > MOST_RETRIES and (item := self.lineup.withdraw(number)):
                self._give_up(number, item.spec, TRIED)

    def ended(self, seat: Seat, seats: Sequence[Seat], result: TrialResult) -> None:
        """Halt where trials fail for the same reason on all devices that work; set a device aside that fails alone."""
        self.streak.note(result, seat.device)
        working = [s.device for s in seats if s is seat or not s.is_benched]
        self.outbox.halted = self.outbox.halted or self.streak.halts(working)
        if not self.outbox.halted and len(working) > 1 and self.streak.is_bad(seat.device):
            self.failed(seat, seats, f"failed all of its last trials: {self.streak.reasons[seat.device]}")

    def _put_back(self, start: Start, seats: Sequence[Seat], reason: str) -> None:
        self.reasons[start.number] = reason
        self.outbox.put(partial(self.ledger.note_attempt, start.number, start.attempt + 1, reason))
        if why := self._exhausted(start, seats):
            self._give_up(start.number, start.spec, why)
        else:
            self.lineup.put_back(start, start.attempt + 1)

    def _exhausted(self, start: Start, seats: Sequence[Seat]) -> str:
        """Return why a trial is not run again, empty where it is.

        While other trials can show whether the devices work, what happened since they last did is not counted.
        """
        if start.attempt + 1 >= MOST_ATTEMPTS:
            return f"as {MOST_ATTEMPTS - 1} workers before it"
        others = self.supply.has_more or any(seat.live for seat in seats)
        failures = [f for seat in seats for f in seat.failures if start.number in f.numbers and not f.is_outside]
        num_tries = self.tries[start.number] + (0 if others else len(failures))
        return TRIED if num_tries > MOST_RETRIES else ""

    def _give_up(self, number: int, spec: TrialSpec, why: str) -> None:
        reason = f"{self.reasons.get(number, 'its worker process died')}, {why}"
        self.outbox.finish(unmeasured(number, spec, TrialState.FAILED, reason))


TRIED = f"as it did {MOST_RETRIES} times before"


def how_it_died(exit_code: int | None) -> tuple[str, bool]:
    """Say how a worker's process ended, and tell whether something outside ended it."""
    if exit_code is None:
        return "died", False
    if exit_code >= 0:
        return f"died (exit code {exit_code})", False
    if -exit_code not in SIGNALS_FROM_OUTSIDE:
        return f"died (signal {-exit_code})", False
    cause = ": by the system for want of memory, or by somebody" if exit_code == -9 else ""
    return f"was killed from outside (signal {-exit_code}{cause})", True


def devices_agree(seats: Sequence[Seat], most: int) -> str:
    """Return why no device is worth another try, empty where one is.

    Each failed at least twice since it last worked, under different trials, and all together `most` times for the same
    reason, or each of them `most` times.
    """
    failures = [failure for seat in seats for failure in seat.failures]
    trials = {number for failure in failures for number in failure.numbers}
    fewest = min((len(seat.failures) for seat in seats), default=0)
    is_same = len({_general(failure.reason) for failure in failures}) == 1 and len(failures) >= most
    if len(trials) < 2 or fewest < BENCHED_AFTER or not (is_same or fewest >= most):
        return ""
    each = "; ".join(
        f"{seat.device} {len(seat.failures)} times, at last it {seat.failures[-1].reason}" for seat in seats
    )
    return f"no device works any more ({each}); no trial is lost, run the same command to try again"


def _general(reason: str) -> str:
    """Return a reason without its numbers: process ids, addresses and seconds differ from time to time."""
    return re.sub(r"0x[0-9a-f]+|\d+(\.\d+)?", "#", reason)
