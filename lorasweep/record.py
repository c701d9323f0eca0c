"""What became of trials: in the ledger first, then in the study and the tracker, so that nothing is lost in between."""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lorasweep.ledger import Ledger
from lorasweep.result import TrialResult, TrialState
from lorasweep.score import is_maximized
from lorasweep.seat import Display
from lorasweep.space import Params
from lorasweep.study import Study
from lorasweep.tracker import Tracker

log = logging.getLogger(__name__)

AWAY_S = 30.0  # for which a tracker that failed is left alone: its time-outs must not slow training down


class Record:
    """The one writer of ledger, study and tracker."""

    def __init__(
        self,
        ledger: Ledger,
        study: Study,
        tracker: Tracker,
        display: Display,
        *,
        objective: str,
        provenance: Mapping[str, str],
    ) -> None:
        self.ledger, self.study, self.tracker, self.display = ledger, study, tracker, display
        self.objective = objective
        self.provenance = dict(provenance)
        self.missed: list[TrialResult] = []  # by the tracker
        self._away_until_s = 0.0

    def catch_up(self) -> None:
        """Bring study and tracker up to the ledger."""
        self.study.restore(self.ledger.results)
        for result in list(self.ledger.results.values()):
            self.study.tell(result.number, result)
            if result.same_as is None and not self.ledger.is_exported(result.number, self.tracker.destination):
                self._export(result)

    def winner(self) -> TrialResult | None:
        """Return the best complete trial, None where there is none."""
        done = [r for r in self.ledger.results.values() if r.state is TrialState.COMPLETE and r.objective is not None]
        done = [r for r in done if math.isfinite(r.objective or 0.0) and r.same_as is None]
        sign = -1 if is_maximized(self.objective) else 1
        return min(
            done, key=lambda r: (sign * (r.objective or 0.0), r.cost.trainable_parameters, r.number), default=None
        )

    def finish(self, result: TrialResult, params: Params) -> None:
        """Ledger first, then tracker and study: whatever dies in between, the result is not lost."""
        result = replace(result, params=params, provenance=self.provenance)
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

    def _export(self, result: TrialResult) -> None:
        self.missed.append(result)
        self.replay()

    def replay(self) -> None:
        """Tell the tracker what it has not heard yet."""
        while self.missed and self.tracked(lambda: self._write(self.missed[0])):
            self.missed.pop(0)

    def _write(self, result: TrialResult) -> None:
        self.tracker.export(result)
        self.ledger.mark_exported(result.number, self.tracker.destination)

    def tracked(self, write: Callable[[], None]) -> bool:
        """The tracker may be away; training goes on, and what it missed is told later, in the next launch at last."""
        if time.monotonic() < self._away_until_s:
            return False
        try:
            write()
        except Exception as error:  # whatever a tracking server's client raises
            self._away_until_s = time.monotonic() + AWAY_S
            log.warning("tracking failed (%s); what it misses is caught up later", error)
            return False
        return True

    def close(self, note: str, files: Sequence[Path], test_metrics: Mapping[str, float], *, is_finished: bool) -> None:
        """Put the leaderboard where the sweep is tracked, with the winner's scores and adapter."""
        winner = self.winner()
        metrics = {f"test/{k}": v for k, v in test_metrics.items()}
        if winner is not None and winner.objective is not None:
            metrics["objective"] = winner.objective
        adapter = self.ledger.adapter_folder(winner.number) if winner else None
        self._away_until_s = 0.0
        self.replay()
        self.tracked(lambda: self.tracker.end(note, files, metrics, adapter, finished=is_finished))
