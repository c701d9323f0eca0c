"""Record results: in the ledger first, then in the study, then in display and tracker."""

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
    """The only writer of results and reports, and the source of a sweep's events.

    Writes are made in order. A write that fails because the disk is full is repeated later, so all are repeatable.
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
        self.waiting: deque[Callable[[], None]] = deque()  # writes that wait for free disk space

    def begin(self, num_trials: int) -> None:
        """Make the study agree with the ledger, and emit `SweepStarted`."""
        self.emit(SweepStarted(num_trials=num_trials, results=list(self.ledger.results.values())))
        self.study.restore(self.ledger.results)
        for result in self.ledger.results.values():
            self.study.tell(result.number, result)

    def emit(self, event: SweepEvent) -> None:
        """Send an event to display and tracker."""
        for listener in self.listeners:
            listener.handle(event)

    def show(self, text: str) -> None:
        """Show the user a line."""
        self.emit(Note(text=redact_values(text)))

    def note(self, text: str) -> None:
        """Show a worker's note, and store it for the leaderboard."""
        self.show(text)
        self._put(partial(self._keep_note, redact_values(text)))

    def rung(self, event: Rung) -> None:
        """Report a trial's objective at a rung to the study."""
        self.emit(event)
        rung_report = make_report(event.rung, event.value, event.point.metrics)
        self._put(partial(self.study.report, event.number, rung_report))

    def finish(self, result: TrialResult) -> None:
        """Record a trial's result."""
        self._put(partial(self._finish, result))

    def failed_attempt(self, trial: Trial, reason: str) -> None:
        """Store that a worker failed while a trial ran, for this launch and later ones."""
        self._put(partial(self.ledger.note_attempt, trial.number, trial.attempt + 1, reason))

    def flush(self) -> None:
        """Make the waiting writes until one fails because the disk is full."""
        while self.waiting:
            try:
                self.waiting[0]()
            except Exception as error:  # from the file system or a database
                if not is_disk_full(error):
                    raise
                self.disk.pause("results cannot be written")
                return
            self.waiting.popleft()

    def winner(self) -> Configuration | None:
        """Return the best configuration, as in the leaderboard; None if no trial is complete."""
        return winner(self.ledger.results.values(), self.objective)

    @property
    def notes(self) -> list[str]:
        """Return the workers' notes of all launches."""
        found = self.ledger.noted("notes").get("notes")
        return [str(text) for text in found] if isinstance(found, list) else []

    def _put(self, write: Callable[[], None]) -> None:
        self.waiting.append(write)
        self.flush()

    def _finish(self, result: TrialResult) -> None:
        """Write the ledger first, so that the result is not lost if a later step fails."""
        result = replace(without_secrets(result), provenance=result.provenance or self.provenance)
        self.ledger.write(result)
        self.study.tell(result.number, result)
        self.emit(Finished(number=result.number, result=result))

    def _keep_note(self, text: str) -> None:
        if text not in self.notes:
            self.ledger.note("notes", {"notes": [*self.notes, text]})


def without_secrets(result: TrialResult) -> TrialResult:
    """Return a result without the environment's secrets, which data rows may contain."""
    samples = tuple(
        Sample(prompt=redact_values(s.prompt), reference=redact_values(s.reference), output=redact_values(s.output))
        for s in result.samples
    )
    probes = tuple(replace(probe, note=redact_values(probe.note)) for probe in result.probes)
    return replace(result, samples=samples, probes=probes, reason=redact_values(result.reason))
