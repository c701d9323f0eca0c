"""What a tracker promises, and the one that records nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lorasweep.core.result import Rung, TrialResult
from lorasweep.core.spec import TrialSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """What is known of a sweep when it begins.

    `data` maps a split to its `source@digest`, `swept` a setting to its values in words.
    """

    config: str
    tags: Mapping[str, str]
    data: Mapping[str, str]
    swept: Mapping[str, str]
    objective: str
    maximize: bool


class Tracker(Protocol):
    """Where results are shown. The ledger is what counts; a tracker may fail and be caught up later."""

    page: str
    destination: str  # names where results go; empty where they go nowhere

    def begin(self, opening: Opening) -> None: ...

    def start(self, number: int, params: Mapping[str, Any], spec: TrialSpec) -> None: ...

    def rung(self, event: Rung) -> None: ...

    def export(self, result: TrialResult) -> None: ...

    def end(
        self, note: str, files: Sequence[Path], metrics: Mapping[str, float], adapter: Path | None, *, finished: bool
    ) -> None: ...


class NullTracker:
    """Records nothing."""

    page = destination = ""

    def begin(self, opening: Opening) -> None:
        """Do nothing."""

    def start(self, number: int, params: Mapping[str, Any], spec: TrialSpec) -> None:
        """Do nothing."""

    def rung(self, event: Rung) -> None:
        """Do nothing."""

    def export(self, result: TrialResult) -> None:
        """Do nothing."""

    def end(
        self, note: str, files: Sequence[Path], metrics: Mapping[str, float], adapter: Path | None, *, finished: bool
    ) -> None:
        """Do nothing."""
