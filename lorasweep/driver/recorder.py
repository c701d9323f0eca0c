"""What became of trials: written to the ledger first, then to the study, then told to display and tracker."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from lorasweep.core.errors import is_disk_full
from lorasweep.core.files import redact_values
from lorasweep.core.messages import Finished, Listener, Note, Rung, SweepEvent, SweepStarted
from lorasweep.core.result import Sample, TrialResult
from lorasweep.core.trial import Trial
from lorasweep.driver.disk_guard import DiskGuard
from lorasweep.driver.ledger import Ledger
from lorasweep.study.rules import make_report
from lorasweep.study.selection import Configuration, winner
from lorasweep.study.study import Study


class Recorder:
    """The one writer of ledger and study, and the source of a sweep's events.

    Writes keep their order. Those that fail because the disk is full wait and are repeated, so each can be repeated.
    """

    def __init__(
        self,
        ledger: Ledger,
        study: Study,
        listeners: Sequence[Listener],
        *,
        objective: str,
        provenance: Mapping[str, str],
    ) -> None:
        self.ledger, self.study, self.listeners = ledger, study, listeners
        self.objective, self.provenance = objective, dict(provenance)
        self.disk = DiskGuard(ledger.folder, self.show)
        self.waiting: deque[Callable[[], None]] = deque()  # writes that wait for room on the disk

    def begin(self, num_trials: int) -> None:
        """Bring the study up to the ledger, and tell how much there is to do."""
        self.emit(SweepStarted(num_trials=num_trials, results=list(self.ledger.results.values())))
        self.study.restore(self.ledger.results)
        for result in self.ledger.results.values():
            self.study.tell(result.number, result)

    def emit(self, event: SweepEvent) -> None:
        """Have display and tracker handle an event."""
        for listener in self.listeners:
            listener.handle(event)

    def show(self, text: str) -> None:
        """Show a line to the user."""
        self.emit(Note(text=redact_values(text)))

    def note(self, text: str) -> None:
        """Show a worker's note, and keep it for the leaderboard."""
        text = redact_values(text)
        self.show(text)
        self._put(partial(self._keep_note, text))

    def rung(self, event: Rung) -> None:
        """Report a trial's objective at a rung."""
        self.emit(event)
        rung_report = make_report(event.rung, event.value, event.point.metrics)
        self._put(partial(self.study.report, event.number, rung_report))

    def finish(self, result: TrialResult) -> None:
        """Record a trial's result."""
        self._put(partial(self._finish, result))

    def failed_attempt(self, trial: Trial, reason: str) -> None:
        """Count a worker that failed under a trial, for this launch and later ones."""
        self._put(partial(self.ledger.note_attempt, trial.number, trial.attempt + 1, reason))

    def flush(self) -> None:
        """Write what waits, as far as the disk has room."""
        while self.waiting:
            try:
                self.waiting[0]()
            except Exception as error:  # of the file system, or a store's own
                if not is_disk_full(error):
                    raise
                self.disk.pause("results cannot be written")
                return
            self.waiting.popleft()

    def winner(self) -> Configuration | None:
        """Return the best settings, as in the leaderboard; None where no trial is complete."""
        return winner(self.ledger.results.values(), self.objective)

    @property
    def notes(self) -> list[str]:
        """Return the notes of all workers of this launch and earlier ones."""
        found = self.ledger.noted("notes").get("notes")
        return [str(text) for text in found] if isinstance(found, list) else []

    def _put(self, write: Callable[[], None]) -> None:
        self.waiting.append(write)
        self.flush()

    def _finish(self, result: TrialResult) -> None:
        """Write the ledger first: whatever dies after that, the result is not lost."""
        result = replace(without_secrets(result), provenance=result.provenance or self.provenance)
        self.ledger.write(result)
        self.study.tell(result.number, result)
        self.emit(Finished(number=result.number, result=result))

    def _keep_note(self, text: str) -> None:
        if text not in self.notes:
            self.ledger.note("notes", {"notes": [*self.notes, text]})


def without_secrets(result: TrialResult) -> TrialResult:
    """Return a result without the secrets of the environment, which rows of data may hold."""
    samples = tuple(
        Sample(prompt=redact_values(s.prompt), reference=redact_values(s.reference), output=redact_values(s.output))
        for s in result.samples
    )
    probes = tuple(replace(probe, note=redact_values(probe.note)) for probe in result.probes)
    return replace(result, samples=samples, probes=probes, reason=redact_values(result.reason))
