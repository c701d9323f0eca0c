"""Which trial comes next: those that wait for a slot, and those that wait for another's result."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from lorasweep.config.space import Params
from lorasweep.core.result import Start, TrialResult, TrialState
from lorasweep.core.spec import TrialSpec
from lorasweep.driver.worker_handle import Seat

MOST_RETRIES = 2  # of a trial whose worker died; the last one alone, so that it cannot end other trials


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A suggestion that is not running."""

    number: int
    params: Params
    spec: TrialSpec
    attempt: int = 0

    @property
    def is_alone(self) -> bool:
        """Tell whether so many workers were lost under it that it must take no other trial with it."""
        return self.attempt >= MOST_RETRIES


class Lineup:
    """Everything that is known of suggestions, by number and by fingerprint."""

    def __init__(self, results: Mapping[int, TrialResult]) -> None:
        self.waiting: deque[Item] = deque()
        self.params: dict[int, Params] = {}
        self._twins: dict[str, list[Item]] = {}
        self._open: set[str] = set()  # fingerprints that wait or run
        self._known: dict[str, TrialResult] = {}
        self._infeasible: list[TrialResult] = []
        for result in results.values():
            self.close(result)

    @property
    def num_distinct(self) -> int:
        """Return how many different trials have a result."""
        return len(self._known)

    def known(self, spec: TrialSpec) -> TrialResult | None:
        """Return the result of an equal trial."""
        return self._known.get(spec.fingerprint)

    def add(self, item: Item) -> None:
        """Have a suggestion wait for a slot, or for the equal trial that is on its way."""
        if item.spec.fingerprint in self._open:
            self._twins.setdefault(item.spec.fingerprint, []).append(item)
            return
        self._open.add(item.spec.fingerprint)
        self.waiting.append(item)

    def put_back(self, start: Start, attempt: int) -> None:
        """Have a trial that ran wait for a slot again."""
        self.waiting.append(
            Item(number=start.number, params=self.params[start.number], spec=start.spec, attempt=attempt)
        )

    def open_to(self, seat: Seat) -> list[Item]:
        """Return the trials that may go to a seat, those that failed on it last; an `is_alone` trial shares no seat."""
        if any(start.attempt >= MOST_RETRIES for start in seat.live.values()):
            return []
        found = [item for item in self.waiting if not (seat.live and item.is_alone)]
        return sorted(found, key=lambda item: sum(item.number in f.numbers for f in seat.failures))

    def take(self, item: Item) -> None:
        """Take a trial out of those that wait."""
        self.waiting.remove(item)
        self.params[item.number] = item.params

    def withdraw(self, number: int) -> Item | None:
        """Take a trial that waits out, for it is not to run again; None where it does not wait."""
        item = next((item for item in self.waiting if item.number == number), None)
        if item is not None:
            self.take(item)
        return item

    def twins(self, fingerprint: str) -> list[Item]:
        """Return the suggestions that wait for the result of an equal trial."""
        return self._twins.get(fingerprint, [])

    def close(self, result: TrialResult) -> None:
        """Take a result in."""
        self._known.setdefault(result.fingerprint, result)
        self._open.discard(result.fingerprint)
        self._twins.pop(result.fingerprint, None)
        if result.state is TrialState.INFEASIBLE and result.same_as is None:
            self._infeasible.append(result)

    def hopeless(self, spec: TrialSpec) -> str:
        """Return why a trial cannot fit where a smaller one did not, empty where it may."""
        smaller = next((r for r in self._infeasible if is_at_least(spec, r.spec)), None)
        return "" if smaller is None else f"needs no less than trial {smaller.number}, which did not fit"


def is_at_least(spec: TrialSpec, other: TrialSpec) -> bool:
    """Tell whether a trial needs no less memory than another on the same base."""
    return (
        spec.model == other.model
        and spec.train.optim == other.train.optim
        and spec.train.per_device_train_batch_size >= other.train.per_device_train_batch_size
        and spec.data.max_length >= other.data.max_length
        and spec.data.train == other.data.train
        and spec.lora.r >= other.lora.r
        and set(spec.lora.target_modules) >= set(other.lora.target_modules)
    )
