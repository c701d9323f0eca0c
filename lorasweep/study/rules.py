"""Rules that stop a trial early. Each returns its reason, or an empty text where the trial goes on."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from evaluation.metrics import LOSS, LOSS_PER_BYTE

MIN_PEERS = 4  # a place among fewer says little
MAX_LOST_GAIN = 0.5  # of what training had gained: the curve of a sound trial is not that rough
MIN_RISE = 0.1  # of the first loss: a smaller rise is noise
MIN_EVAL_RISE = 0.05  # of the lowest validation loss: less is noise on a few dozen examples


@dataclass(frozen=True, slots=True, kw_only=True)
class RungReport:
    """What a trial reports_of at a rung; losses in nats per label token, `train_loss` the mean of the last steps."""

    rung: int
    value: float  # the objective
    eval_loss: float
    train_loss: float
    first_loss: float  # of the first step, before any update
    eval_bits: float | None = None  # validation loss in bits per byte, which compares bases of different tokenizers


def make_report(rung: int, value: float, metrics: Mapping[str, float]) -> RungReport:
    """Return the rung_report of a rung's metrics."""
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
    """A trial's rung_reports so far, and what every trial reports_of at its latest rung, itself included."""

    own: tuple[RungReport, ...]
    peers: tuple[RungReport, ...]
    maximize: bool
    reduction_factor: int  # one in so many may go on

    @property
    def latest(self) -> RungReport:
        return self.own[-1]

    @property
    def num_kept(self) -> int:
        return math.ceil(len(self.peers) / self.reduction_factor)

    def by_objective(self, rung_report: RungReport) -> tuple[float, ...]:
        """Order rung_reports, the best first; equal objectives by validation loss."""
        return -rung_report.value if self.maximize else rung_report.value, *self.by_loss(rung_report)

    def by_loss(self, rung_report: RungReport) -> tuple[float, ...]:
        """Order rung_reports by validation loss, in bits per byte where every peer reports_of them."""
        has_bits = all(peer.eval_bits is not None for peer in self.peers)
        return (rung_report.eval_bits if has_bits and rung_report.eval_bits is not None else rung_report.eval_loss,)

    def place(self, order: Callable[[RungReport], tuple[float, ...]]) -> int:
        """Return the trial's place among its peers, from 1; equal ones share the better place."""
        return 1 + sum(order(peer) < order(self.latest) for peer in self.peers)


def divergence(comparison: RungComparison) -> str:
    """Training lost what it had gained."""
    now, began = comparison.latest, comparison.latest.first_loss
    best = min([began, *(rung_report.train_loss for rung_report in comparison.own)])
    has_risen = now.train_loss - best > max(MAX_LOST_GAIN * (began - best), MIN_RISE * began)
    # Where all diverge, one still has to win. An objective such as accuracy may lead by luck, a loss hardly.
    is_best_of_many = len(comparison.peers) > 1 and comparison.place(comparison.by_loss) == 1
    if not has_risen or is_best_of_many:
        return ""
    return f"training loss {now.train_loss:.3g}, after {best:.3g} at its best; it began at {began:.3g}"


def overfitting(comparison: RungComparison) -> str:
    """Validation loss rises while training loss falls, and the objective does not improve."""
    now, lowest = comparison.latest, min(comparison.own, key=lambda rung_report: rung_report.eval_loss)
    later = [rung_report for rung_report in comparison.own if rung_report.rung > lowest.rung]
    if len(later) < 2 or comparison.place(comparison.by_objective) == 1:
        return ""
    has_risen = now.eval_loss == max(r.eval_loss for r in later) and now.eval_loss > lowest.eval_loss * (
        1 + MIN_EVAL_RISE
    )
    improves = comparison.by_objective(now)[0] < min(
        comparison.by_objective(rung_report)[0] for rung_report in comparison.own[:-1]
    )
    if not has_risen or improves or now.train_loss >= lowest.train_loss:
        return ""
    return (
        f"validation loss rose from {lowest.eval_loss:.3g} at rung {lowest.rung} to {now.eval_loss:.3g}, "
        f"while training loss fell from {lowest.train_loss:.3g} to {now.train_loss:.3g}"
    )


def rank(comparison: RungComparison) -> str:
    """Too many peers were better at the same rung, by the objective and by validation loss."""
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
