"""News on its way to the tracker, on a thread of its own: a tracker that is slow, or away, delays nobody."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from textwrap import shorten
from typing import Any

from lorasweep.core.files import redact
from lorasweep.core.result import Rung, TrialResult
from lorasweep.core.spec import TrialSpec
from lorasweep.tracking.base import Opening, Tracker

log = logging.getLogger(__name__)

AWAY_S = 30.0  # at most, for which a tracker that failed is left alone; a second at first
MOST_FAILURES = 3  # in a row, after which the last delivery gives up
LAST_WAIT_S = 1.0  # between the last tries


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """One thing to tell. What is not kept is told again by a trial's result, so it is dropped while nobody answers."""

    write: Callable[[], None]
    is_kept: bool


class Courier:
    """Tells a tracker, in order, what it is given; what fails is tried again, and what is left over is counted."""

    def __init__(self, tracker: Tracker, opening: Opening) -> None:
        self.tracker, self.opening = tracker, opening
        self._letters: deque[Letter] = deque()
        self._changed = threading.Condition()
        self._has_begun = self._is_closing = False
        self._failures = 0  # in a row
        self._away_until_s = 0.0
        self._thread = threading.Thread(target=self._deliver_all, name="tracking", daemon=True)
        if tracker.destination:
            self._thread.start()

    def start(self, number: int, params: Mapping[str, Any], spec: TrialSpec) -> None:
        """Tell that a trial starts."""
        self._put(lambda: self.tracker.start(number, params, spec), is_kept=False)

    def rung(self, event: Rung) -> None:
        """Tell what a trial reported."""
        self._put(lambda: self.tracker.rung(event), is_kept=False)

    def export(self, result: TrialResult, done: Callable[[], None]) -> None:
        """Tell a trial's result; then call `done`, from the thread."""

        def write() -> None:
            self.tracker.export(result)
            done()

        self._put(write, is_kept=True)

    def close(self, end: Callable[[], None]) -> int:
        """Deliver what is left, and `end` last; return how many results or ends the tracker has not heard."""
        if not self.tracker.destination:
            return 0
        self._put(end, is_kept=True)
        with self._changed:
            self._is_closing, self._failures = True, 0
            self._changed.notify()
        self._thread.join()
        return len(self._letters)

    def abandon(self) -> None:
        """Tell no more: what is left is told by the next launch."""
        with self._changed:
            self._letters.clear()
            self._is_closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(LAST_WAIT_S)

    def _put(self, write: Callable[[], None], *, is_kept: bool) -> None:
        with self._changed:
            if self.tracker.destination and (is_kept or not self._is_away):
                self._letters.append(Letter(write=write, is_kept=is_kept))
                self._changed.notify()

    @property
    def _is_away(self) -> bool:
        return time.monotonic() < self._away_until_s

    def _deliver_all(self) -> None:
        while letter := self._next():
            try:
                self._deliver(letter)
            except Exception as error:  # whatever a tracking server's client raises
                self._failed(letter, error)
            else:
                if self._failures:
                    log.warning("tracking goes on")
                self._failures = 0

    def _deliver(self, letter: Letter) -> None:
        if not self._has_begun:
            self.tracker.begin(self.opening)
            self._has_begun = True
        letter.write()

    def _next(self) -> Letter | None:
        """Wait for something that can be told now; None where nothing more can."""
        with self._changed:
            while not self._is_closing and (self._is_away or not self._letters):
                self._changed.wait(max(0.01, self._away_until_s - time.monotonic()) if self._is_away else None)
            if self._is_closing and self._failures:
                self._changed.wait(LAST_WAIT_S)
            is_given_up = self._is_closing and self._failures >= MOST_FAILURES
            return self._letters.popleft() if self._letters and not is_given_up else None

    def _failed(self, letter: Letter, error: Exception) -> None:
        with self._changed:
            if not self._failures:
                why = shorten(redact(str(error)), 200)
                log.warning("tracking failed (%s); training goes on, and it is told later", why)
            self._away_until_s = time.monotonic() + min(AWAY_S, 2.0**self._failures)
            self._failures += 1
            # To the end: one result that cannot be told must not keep the others back.
            self._letters = deque([*(x for x in self._letters if x.is_kept), *([letter] if letter.is_kept else [])])
