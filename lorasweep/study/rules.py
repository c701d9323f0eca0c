"""Rules that stop a trial early. Each returns its reason, or an empty text where the trial goes on."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from evaluation.metrics import LOSS, LOSS_PER_BYTE

FEWEST_PEERS = 4  # a place among fewer says little
GIVEN_BACK = 0.5  # of what training had gained: the curve of a sound trial is not that rough
LOUD = 0.1  # of the first loss: a smaller rise is noise
RISE = 0.05  # of the lowest validation loss: less is noise on a few dozen examples


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a trial reported at a rung; losses in nats per label token, `train_loss` the mean of the last steps."""

    rung: int
    value: float  # the objective
    eval_loss: float
    train_loss: float
    first_loss: float  # of the first step, before any update
    eval_bits: float | None = None  # validation loss in bits per byte, which compares bases of different tokenizers


def read(rung: int, value: float, metrics: Mapping[str, float]) -> Reading:
    """Return the reading of a rung's metrics."""
    loss, bits = metrics[f"eval/{LOSS}"], metrics.get(f"eval/{LOSS_PER_BYTE}")
    return Reading(
        rung=rung,
        value=value,
        eval_loss=loss if math.isfinite(loss) else math.inf,
        train_loss=metrics["train/loss"],
        first_loss=metrics["train/first_loss"],
        eval_bits=bits if bits is None or math.isfinite(bits) else math.inf,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Race:
    """A trial's readings so far, and what every trial reported at its latest rung, itself included."""

    mine: tuple[Reading, ...]
    peers: tuple[Reading, ...]
    maximize: bool
    reduction_factor: int  # one in so many may go on

    @property
    def now(self) -> Reading:
        return self.mine[-1]

    @property
    def num_kept(self) -> int:
        return math.ceil(len(self.peers) / self.reduction_factor)

    def by_objective(self, reading: Reading) -> tuple[float, ...]:
        """Order readings, the best first; equal objectives by validation loss."""
        return -reading.value if self.maximize else reading.value, *self.by_loss(reading)

    def by_loss(self, reading: Reading) -> tuple[float, ...]:
        """Order readings by validation loss, in bits per byte where every peer reported them."""
        has_bits = all(peer.eval_bits is not None for peer in self.peers)
        return (reading.eval_bits if has_bits and reading.eval_bits is not None else reading.eval_loss,)

    def place(self, order: Callable[[Reading], tuple[float, ...]]) -> int:
        """Return the trial's place among its peers, from 1; equal ones share the better place."""
        return 1 + sum(order(peer) < order(self.now) for peer in self.peers)


def divergence(race: Race) -> str:
    """Training lost what it had gained."""
    now, began = race.now, race.now.first_loss
    best = min([began, *(reading.train_loss for reading in race.mine)])
    has_risen = now.train_loss - best > max(GIVEN_BACK * (began - best), LOUD * began)
    # Where all diverge, one still has to win. An objective such as accuracy may lead by luck, a loss hardly.
    is_best_of_many = len(race.peers) > 1 and race.place(race.by_loss) == 1
    if not has_risen or is_best_of_many:
        return ""
    return f"training loss {now.train_loss:.3g}, after {best:.3g} at its best; it began at {began:.3g}"


def overfitting(race: Race) -> str:
    """Validation loss rises while training loss falls, and the objective does not improve."""
    now, lowest = race.now, min(race.mine, key=lambda reading: reading.eval_loss)
    later = [reading for reading in race.mine if reading.rung > lowest.rung]
    if len(later) < 2 or race.place(race.by_objective) == 1:
        return ""
    has_risen = now.eval_loss == max(r.eval_loss for r in later) and now.eval_loss > lowest.eval_loss * (1 + RISE)
    improves = race.by_objective(now)[0] < min(race.by_objective(reading)[0] for reading in race.mine[:-1])
    if not has_risen or improves or now.train_loss >= lowest.train_loss:
        return ""
    return (
        f"validation loss rose from {lowest.eval_loss:.3g} at rung {lowest.rung} to {now.eval_loss:.3g}, "
        f"while training loss fell from {lowest.train_loss:.3g} to {now.train_loss:.3g}"
    )


def rank(race: Race) -> str:
    """Too many peers were better at the same rung, by the objective and by validation loss."""
    if len(race.peers) <= FEWEST_PEERS:
        return ""
    place, by_loss = race.place(race.by_objective), race.place(race.by_loss)
    if min(place, by_loss) <= race.num_kept:
        return ""
    return (
        f"number {place} of {len(race.peers)} by the objective and {by_loss} by validation loss, and the best "
        f"{race.num_kept} go on"
    )


RULES: dict[str, Callable[[Race], str]] = {"divergence": divergence, "overfitting": overfitting, "rank": rank}
