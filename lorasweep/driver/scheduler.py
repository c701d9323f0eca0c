"""Where trials come from: asked from the study, answered from what is known, refused, or handed to a seat."""

import time
from collections.abc import Sequence

from lorasweep.core.errors import is_disk_full
from lorasweep.core.result import TrialState
from lorasweep.driver.outbox import Outbox, unmeasured
from lorasweep.driver.placement import Placement
from lorasweep.driver.queue import Item, Lineup
from lorasweep.driver.recorder import Record
from lorasweep.driver.worker_handle import Seat
from lorasweep.planning.plan import Plan


class Supply:
    """Gives seats their next trials until the plan, or its time, is at an end."""

    def __init__(self, plan: Plan, record: Record, lineup: Lineup, placement: Placement, outbox: Outbox) -> None:
        self.plan, self.record, self.study = plan, record, record.study
        self.lineup, self.placement, self.outbox = lineup, placement, outbox
        self.deadline = time.monotonic() + 60 * (plan.config.study.timeout_min or float("inf"))

    def take_up(self) -> None:
        """Queue the points of a grid, and take up the trials that were running when the last driver ended."""
        if self.plan.is_grid:
            self.study.enqueue(self.plan.points)
        for number, params in self.study.resume():
            attempt = self.record.ledger.attempt(number)
            self._place(Item(number=number, params=params, spec=self.plan.spec(params), attempt=attempt))

    @property
    def is_left(self) -> bool:
        """Tell whether trials wait that there is still time for."""
        return bool(self.lineup.waiting) and time.monotonic() < self.deadline

    def next(self, seat: Seat, seats: Sequence[Seat]) -> Item | None:
        """Return a trial for the base that a seat has; for another where nothing lives here and no such comes."""
        while time.monotonic() < self.deadline:
            waiting = [item for item in self.lineup.open_to(seat) if not _is_better_elsewhere(item, seat, seats)]
            untried = [item for item in waiting if not seat.has_failed_under(item.number)]
            found = self.placement.of_this_base(seat, untried)
            if found is None and self._num_untried(seat) < max(seat.num_slots, 2) and self._may_ask():
                if not self._ask():
                    return None
                continue
            found = found or self.placement.of_this_base(seat, waiting)
            found = found or self.placement.of_another_base(seat, seats, waiting)
            if found is None or not self.placement.fits_beside(seat, found.spec):
                return None
            self.lineup.take(found)
            if not self._refuses(found):  # what was measured since it was placed may have shown it to be too large
                return found
        return None

    def _num_untried(self, seat: Seat) -> int:
        return sum(not seat.has_failed_under(item.number) for item in self.lineup.waiting)

    @property
    def has_more(self) -> bool:
        """Tell whether a device that is free now would get a trial."""
        return time.monotonic() < self.deadline and (bool(self.lineup.waiting) or self._may_ask())

    def _ask(self) -> bool:
        """Ask the study for a trial; return False where it cannot be written now."""
        try:
            number, params = self.study.ask()
        except Exception as error:  # every kind of store has its own
            if not is_disk_full(error):
                raise
            self.outbox.room.close("the study cannot be written")
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
            self.outbox.put(lambda: self.record.repeat(item.number, item.params, known))
        elif not self._refuses(item):
            self.lineup.add(item)

    def _refuses(self, item: Item) -> bool:
        """Record a trial that no device has room for as infeasible."""
        if reason := self.placement.too_large(item.spec) or self.lineup.hopeless(item.spec):
            self.lineup.params[item.number] = item.params
            self.outbox.finish(unmeasured(item.number, item.spec, TrialState.INFEASIBLE, reason))
        return bool(reason)


def _is_better_elsewhere(item: Item, seat: Seat, seats: Sequence[Seat]) -> bool:
    """Tell whether a device failed under a trial that another device, which works, has not run since."""
    others = (s for s in seats if s is not seat and not s.is_benched)
    return seat.has_failed_under(item.number) and any(not s.has_failed_under(item.number) for s in others)
