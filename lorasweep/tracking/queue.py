"""Deliver events to the tracker on a separate thread, so that a slow or unreachable tracker delays no trial."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from textwrap import shorten

from lorasweep.core.errors import ConfigError
from lorasweep.core.files import redact
from lorasweep.core.messages import Finished, Rung, Summary, SweepEvent, SweepStarted, TrialStarted
from lorasweep.core.result import TrialResult
from lorasweep.tracking.base import SweepInfo, Tracker

log = logging.getLogger(__name__)

MAX_WAIT_S = 30.0  # between retries; starts at one second
MAX_FAILURES = 3  # consecutive ones, after which `close` gives up
LAST_WAIT_S = 1.0  # between the last retries

Tracked = Finished | Summary | TrialStarted | Rung


class TrackingQueue:
    """Delivers events to a tracker in order. Results and the summary are retried until they arrive.

    `is_exported` and `mark_exported` store, by trial number, which results the tracker has. If the tracker can never be
    used, `refusal` is set and `on_refusal` is called, on the queue's thread.
    """

    def __init__(
        self,
        tracker: Tracker,
        info: SweepInfo,
        *,
        is_exported: Callable[[int], bool],
        mark_exported: Callable[[int], None],
    ) -> None:
        self.tracker, self.info = tracker, info
        self.is_exported, self.mark_exported = is_exported, mark_exported
        self._events: deque[Tracked] = deque()
        self._changed = threading.Condition()
        self._has_begun = self._is_closing = False
        self.refusal: ConfigError | None = None
        self.on_refusal: Callable[[], None] = lambda: None
        self._num_failures = 0  # consecutive ones
        self._retry_at_s = 0.0
        self._thread = threading.Thread(target=self._deliver_all, name="tracking", daemon=True)
        self._thread.start()

    def handle(self, event: SweepEvent) -> None:
        """Queue an event. While the tracker fails, events that a trial's result repeats are dropped."""
        if isinstance(event, SweepStarted):
            for result in event.results:
                if not self.is_exported(result.number):
                    self._put_result(result)
        elif isinstance(event, Finished):
            self._put_result(event.result)
        elif isinstance(event, Summary) or (isinstance(event, TrialStarted | Rung) and not self._is_waiting):
            self._put(event)

    def close(self) -> int:
        """Deliver all queued events; return the number of results and summaries that could not be delivered."""
        with self._changed:
            self._is_closing, self._num_failures = True, 0
            self._changed.notify()
        self._thread.join()
        return len(self._events)

    def abandon(self) -> None:
        """Stop delivering; the next launch delivers the remaining events."""
        with self._changed:
            self._events.clear()
            self._is_closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(LAST_WAIT_S)

    def _put_result(self, result: TrialResult) -> None:
        if result.same_as is None:
            self._put(Finished(number=result.number, result=result))

    def _put(self, event: Tracked) -> None:
        with self._changed:
            self._events.append(event)
            self._changed.notify()

    @property
    def _is_waiting(self) -> bool:
        return time.monotonic() < self._retry_at_s

    def _deliver_all(self) -> None:
        while event := self._next():
            try:
                self._deliver(event)
            except ConfigError as error:
                self.refusal = error
                self._put(event)  # it is not delivered
                self.on_refusal()
                return
            except Exception as error:  # tracking clients raise many types
                self._failed(event, error)
            else:
                if self._num_failures:
                    log.warning("tracking works again")
                self._num_failures = 0

    def _deliver(self, event: Tracked) -> None:
        if not self._has_begun:
            self.tracker.begin(self.info)
            self._has_begun = True
        self.tracker.handle(event)
        if isinstance(event, Finished):
            self.mark_exported(event.number)

    def _next(self) -> Tracked | None:
        """Wait for an event that can be delivered now; None if there are no more."""
        with self._changed:
            while not self._is_closing and (self._is_waiting or not self._events):
                self._changed.wait(max(0.01, self._retry_at_s - time.monotonic()) if self._is_waiting else None)
            if self._is_closing and self._num_failures:
                self._changed.wait(LAST_WAIT_S)
            has_given_up = self._is_closing and self._num_failures >= MAX_FAILURES
            return self._events.popleft() if self._events and not has_given_up else None

    def _failed(self, event: Tracked, error: Exception) -> None:
        with self._changed:
            if not self._num_failures:
                why = shorten(redact(str(error)), 200)
                log.warning("tracking failed (%s); training continues, and tracking is retried later", why)
            self._retry_at_s = time.monotonic() + min(MAX_WAIT_S, 2.0**self._num_failures)
            self._num_failures += 1
            # Append it, so that a result that cannot be delivered does not block the others.
            self._events = deque(e for e in (*self._events, event) if isinstance(e, Finished | Summary))
