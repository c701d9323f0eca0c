"""The interface of trackers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from lorasweep.core.messages import SweepEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepInfo:
    """The facts about a sweep that are known before it starts.

    `data` maps a split to its `source@digest`, `swept` a setting to its values as text.
    """

    config: str
    tags: Mapping[str, str]
    data: Mapping[str, str]
    swept: Mapping[str, str]
    objective: str


class Tracker(Protocol):
    """Records the events of a sweep. If it fails, its records can be completed later from the ledger.

    Every call can be repeated with the same arguments.
    """

    page: str  # fragment of the address of the sweep's view
    destination: str  # identifies server and experiment

    def begin(self, info: SweepInfo) -> None: ...

    def handle(self, event: SweepEvent) -> None: ...
