"""What has to reach the ledger and the study. Where the disk is full it waits here, in its order."""

import time
from collections import deque
from collections.abc import Callable

from lorasweep.core.errors import is_disk_full
from lorasweep.core.result import TrialResult, TrialState
from lorasweep.core.spec import TrialSpec
from lorasweep.driver.disk_guard import Room
from lorasweep.driver.queue import Lineup
from lorasweep.driver.recorder import Record


class Outbox:
    """Writes things in their order."""

    def __init__(self, record: Record, lineup: Lineup, room: Room) -> None:
        self.record, self.lineup, self.room = record, lineup, room
        self.waiting: deque[Callable[[], None]] = deque()  # for room on the disk
        self.halted = ""  # why the sweep gives itself up

    def finish(self, result: TrialResult) -> None:
        """Record a result, and give it to the suggestions that waited for the same trial."""
        self.put(lambda: self._record(result))

    def put(self, write: Callable[[], None]) -> None:
        """Write something after all that waits; it is repeated where it fails half-way, so it must bear that."""
        self.waiting.append(write)
        self.send()

    def send(self) -> None:
        """Write what waits, as far as there is room."""
        while self.waiting:
            try:
                self.waiting[0]()
            except Exception as error:  # of the file system, or of a store in its own words
                if not is_disk_full(error):
                    raise
                self.room.close("results cannot be written")
                return
            self.waiting.popleft()

    def _record(self, result: TrialResult) -> None:
        ledger = self.record.ledger
        self.record.finish(result, self.lineup.params[result.number])
        twins = self.lineup.twins(result.fingerprint)
        while twins:
            self.record.repeat(twins[0].number, twins[0].params, ledger.results[result.number])
            twins.pop(0)
        self.lineup.close(ledger.results[result.number])


def unmeasured(number: int, spec: TrialSpec, state: TrialState, reason: str) -> TrialResult:
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
