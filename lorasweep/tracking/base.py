"""What a tracker promises."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from lorasweep.core.messages import SweepEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepInfo:
    """What is known of a sweep when it begins.

    `data` maps a split to its `source@digest`, `swept` a setting to its values as text.
    """

    config: str
    tags: Mapping[str, str]
    data: Mapping[str, str]
    swept: Mapping[str, str]
    objective: str


class Tracker(Protocol):
    """Shows results. The ledger is what counts: a tracker may fail and be brought up to it later.

    Every call may be repeated with the same arguments.
    """

    page: str  # address of the sweep's view inside the tracker's web page
    destination: str  # identifies the server and experiment

    def begin(self, info: SweepInfo) -> None: ...

    def handle(self, event: SweepEvent) -> None: ...
