"""What became of trials: in the ledger first, then in the study and the tracker, so that nothing is lost in between."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lorasweep.config.space import Params
from lorasweep.core.files import redact_values
from lorasweep.core.result import Sample, TrialResult
from lorasweep.driver.ledger import Ledger
from lorasweep.driver.worker_handle import Display
from lorasweep.study.selection import winner
from lorasweep.study.study import Study
from lorasweep.tracking.queue import Courier

log = logging.getLogger(__name__)


class Record:
    """The one writer of ledger, study and tracker."""

    def __init__(
        self,
        ledger: Ledger,
        study: Study,
        courier: Courier,
        display: Display,
        *,
        objective: str,
        provenance: Mapping[str, str],
    ) -> None:
        self.ledger, self.study, self.courier, self.display = ledger, study, courier, display
        self.objective = objective
        self.provenance = dict(provenance)

    def catch_up(self) -> None:
        """Bring study and tracker up to the ledger."""
        self.study.restore(self.ledger.results)
        for result in list(self.ledger.results.values()):
            self.study.tell(result.number, result)
            if result.same_as is None and not self.ledger.is_exported(result.number, self.destination):
                self._export(result)

    def winner(self) -> TrialResult | None:
        """Return the trial that stands for the best settings, as in the leaderboard; None where none was completed."""
        best = winner(self.ledger.results.values(), self.objective)
        return best.result if best else None

    def finish(self, result: TrialResult, params: Params) -> None:
        """Ledger first, then tracker and study: whatever dies in between, the result is not lost."""
        result = replace(without_secrets(result), params=params, provenance=self.provenance)
        self.ledger.write(result)
        self._export(result)
        self.study.tell(result.number, result)
        self.display.finished(result)

    def repeat(self, number: int, params: Params, known: TrialResult) -> None:
        """Answer a suggestion that was trained already with the result that is there."""
        first = known.number if known.same_as is None else known.same_as
        self.ledger.write(replace(known, number=number, params=params, same_as=first, reason=f"same as trial {first}"))
        self.study.tell(number, self.ledger.results[number])
        self.display.finished(self.ledger.results[number])

    def note(self, text: str) -> None:
        """Keep what a worker said of data, base or checkpoints for the leaderboard, once."""
        if text not in self.notes:
            self.ledger.note("notes", {"notes": [*self.notes, text]})

    @property
    def notes(self) -> list[str]:
        """Return the notes of all workers of this and earlier launches."""
        found = self.ledger.noted("notes").get("notes")
        return [str(text) for text in found] if isinstance(found, list) else []

    @property
    def destination(self) -> str:
        """Name the place that results are exported to, empty where there is none."""
        return self.courier.tracker.destination

    def _export(self, result: TrialResult) -> None:
        self.courier.export(result, lambda: self.ledger.mark_exported(result.number, self.destination))

    def close(self, note: str, files: Sequence[Path], test_metrics: Mapping[str, float], *, is_finished: bool) -> None:
        """Put the leaderboard where the sweep is tracked, with the winner's scores and adapter."""
        best = winner(self.ledger.results.values(), self.objective)
        metrics = {f"test/{k}": v for k, v in test_metrics.items()}
        if best and (objective := best.objective(self.objective)) is not None:
            metrics[self.objective] = objective
        metrics |= _beside(best.result) if best else {}
        adapter = self.ledger.adapter_folder(best.result.number) if best else None
        tracker = self.courier.tracker
        if self.courier.close(lambda: tracker.end(note, files, metrics, adapter, finished=is_finished)):
            left = [r for r in self.ledger.results.values() if r.same_as is None]
            count = sum(not self.ledger.is_exported(r.number, self.destination) for r in left)
            log.warning("tracking was not told everything (%d results); the same command does it later", count)


def _beside(result: TrialResult) -> dict[str, float]:
    """Return what a trial is to be compared with, as metrics: `base/accuracy`, `chance/accuracy`."""
    if result.base is None:
        return {}
    found = {"base": result.base.metrics, "chance": result.base.chance, "majority": result.base.majority}
    return {f"{name}/{metric}": value for name, metrics in found.items() for metric, value in metrics.items()}


def without_secrets(result: TrialResult) -> TrialResult:
    """Return a result in whose texts no secret of the environment stands: rows of data may hold one."""
    samples = tuple(
        Sample(prompt=redact_values(s.prompt), reference=redact_values(s.reference), output=redact_values(s.output))
        for s in result.samples
    )
    probes = tuple(replace(probe, note=redact_values(probe.note)) for probe in result.probes)
    return replace(result, samples=samples, probes=probes, reason=redact_values(result.reason))
