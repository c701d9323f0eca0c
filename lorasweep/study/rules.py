"""Rules that stop a trial early. Each returns its reason, or an empty string if the trial may continue."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from evaluation.metrics import LOSS, LOSS_PER_BYTE

MIN_PEERS = 4  # with fewer, a rank is not informative
MAX_LOST_GAIN = 0.5  # share of the improvement in training loss: normal curves lose less
MIN_RISE = 0.1  # share of the first loss: a smaller rise is noise
MIN_EVAL_RISE = 0.05  # share of the lowest validation loss: a smaller rise is noise on a few dozen examples


@dataclass(frozen=True, slots=True, kw_only=True)
class RungReport:
    """A trial's report at a rung. Losses in nats per label token; `train_loss` is the mean of the last steps."""

    rung: int
    value: float  # the objective
    eval_loss: float
    train_loss: float
    first_loss: float  # of the first step, before any update
    eval_bits: float | None = None  # validation loss in bits per byte, comparable between tokenizers


def make_report(rung: int, value: float, metrics: Mapping[str, float]) -> RungReport:
    """Return the report of a trial with these metrics at a rung."""
    loss, bits = metrics[f"eval/{LOSS}"], metrics.get(f"eval/{LOSS_PER_BYTE}")
    return RungReport(
        rung=rung,
        value=value,
        eval_loss=loss if math.isfinite(loss) else math.inf,
        train_loss=metrics["train/loss"],
        first_loss=metrics["train/first_loss"],
        eval_bits=bits if bits is None or math.isfinite(bits) else math.inf,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RungComparison:
    """A trial's reports so far, and the reports of all trials at its latest rung, including its own."""

    own: tuple[RungReport, ...]
    peers: tuple[RungReport, ...]
    maximize: bool
    reduction_factor: int  # one in so many trials may continue

    @property
    def latest(self) -> RungReport:
        return self.own[-1]

    @property
    def num_kept(self) -> int:
        return math.ceil(len(self.peers) / self.reduction_factor)

    def by_objective(self, rung_report: RungReport) -> tuple[float, ...]:
        """Return a sort key, best first: the objective, then the validation loss."""
        return -rung_report.value if self.maximize else rung_report.value, *self.by_loss(rung_report)

    def by_loss(self, rung_report: RungReport) -> tuple[float, ...]:
        """Return a sort key: the validation loss, in bits per byte if every peer reported them."""
        has_bits = all(peer.eval_bits is not None for peer in self.peers)
        return (rung_report.eval_bits if has_bits and rung_report.eval_bits is not None else rung_report.eval_loss,)

    def place(self, order: Callable[[RungReport], tuple[float, ...]]) -> int:
        """Return the trial's rank among its peers, from 1; equal trials share the better rank."""
        return 1 + sum(order(peer) < order(self.latest) for peer in self.peers)


def divergence(comparison: RungComparison) -> str:
    """Stop a trial whose training loss rose again by more than noise."""
    now, began = comparison.latest, comparison.latest.first_loss
    best = min([began, *(earlier.train_loss for earlier in comparison.own)])
    has_risen = now.train_loss - best > max(MAX_LOST_GAIN * (began - best), MIN_RISE * began)
    # If all trials diverge, one must still win. The loss decides: an objective such as accuracy may be best by chance.
    is_best_of_many = len(comparison.peers) > 1 and comparison.place(comparison.by_loss) == 1
    if not has_risen or is_best_of_many:
        return ""
    return f"training loss rose to {now.train_loss:.3g} after a minimum of {best:.3g}; it started at {began:.3g}"


def overfitting(comparison: RungComparison) -> str:
    """Stop a trial if validation loss rises while training loss falls, and the objective does not improve."""
    now, lowest = comparison.latest, min(comparison.own, key=lambda earlier: earlier.eval_loss)
    later = [one for one in comparison.own if one.rung > lowest.rung]
    if len(later) < 2 or comparison.place(comparison.by_objective) == 1:
        return ""
    is_above = now.eval_loss > lowest.eval_loss * (1 + MIN_EVAL_RISE)
    has_risen = is_above and now.eval_loss == max(one.eval_loss for one in later)
    best_before = min(comparison.by_objective(earlier)[0] for earlier in comparison.own[:-1])
    improves = comparison.by_objective(now)[0] < best_before
    if not has_risen or improves or now.train_loss >= lowest.train_loss:
        return ""
    return (
        f"validation loss rose from {lowest.eval_loss:.3g} at rung {lowest.rung} to {now.eval_loss:.3g}, "
        f"while training loss fell from {lowest.train_loss:.3g} to {now.train_loss:.3g}"
    )


def rank(comparison: RungComparison) -> str:
    """Stop a trial if too many peers were better at the same rung, by the objective and by validation loss."""
    if len(comparison.peers) <= MIN_PEERS:
        return ""
    place, by_loss = comparison.place(comparison.by_objective), comparison.place(comparison.by_loss)
    if min(place, by_loss) <= comparison.num_kept:
        return ""
    return (
        f"number {place} of {len(comparison.peers)} by the objective and {by_loss} by validation loss, and the best "
        f"{comparison.num_kept} go on"
    )


RULES: dict[str, Callable[[RungComparison], str]] = {"divergence": divergence, "overfitting": overfitting, "rank": rank}
