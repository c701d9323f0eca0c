"""What the driver deals with: workers in their seats, and whoever watches."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from lorasweep.executors.base import Executor
from lorasweep.grammar import Scalar
from lorasweep.result import Command, Event, Progress, Rung, Start, TrialResult


class Display(Protocol):
    """What is shown while a sweep runs."""

    def begin(self, num_trials: int, done: Sequence[TrialResult]) -> None: ...

    def started(self, number: int, params: Mapping[str, Scalar]) -> None: ...

    def progress(self, event: Progress) -> None: ...

    def rung(self, event: Rung) -> None: ...

    def finished(self, result: TrialResult) -> None: ...

    def say(self, text: str) -> None: ...

    def end(self) -> None: ...


@dataclass(eq=False)
class Seat:
    """An executor with what it is doing. `room` says how many bytes it may use now; None: nobody can tell."""

    executor: Executor
    num_slots: int
    device: str
    kind: str = "cpu"
    room: Callable[[], float | None] = lambda: None
    full_since_s: float | None = None
    base: str = ""
    live: dict[int, Start] = field(default_factory=dict)
    orders: list[Command] = field(default_factory=list)
    answer: "Future[list[Event]] | None" = None

    @property
    def num_free(self) -> int:
        return self.num_slots - len(self.live)
