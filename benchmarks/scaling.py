"""Where packing helps and where it stops: time of a step against trials, tokens and the size of the base.

    python -m benchmarks.scaling [--shapes tiny-1m small-15m medium-60m] [--out benchmarks/scaling.json]

For every base and batch it trains K trials together, K = 1 to 32, in one pass and in the passes that the program
chooses by itself after trying, and reports tokens per second beside those of a lone trial.
"""

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median

os.environ.setdefault("GOMP_SPINCOUNT", "1000")

from benchmarks.machine import seconds
from benchmarks.packed import alike, fill, rows_of
from benchmarks.shapes import SHAPES, random_bases
from benchmarks.tables import command_line, markdown, write
from lorasweep.adapters.bank import Bank
from lorasweep.adapters.pass_size import WHOLE, Pace
from lorasweep.adapters.train import train_step
from lorasweep.adapters.train_state import Learner
from lorasweep.core.spec import DType, ModelSpec
from lorasweep.models.base import Base

ROUNDS = 5
LIMIT_S = 8.0  # a step longer than this is measured once


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One measurement: seconds of a step in one pass, and in the passes of the fastest size."""

    shape: str
    dtype: DType
    slots: int
    batch: int
    length: int
    tokens: int
    whole_s: float
    chosen_s: float
    chosen_limit: int | None  # tokens; None: all in one pass

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.chosen_s


def measure(base: Base, shape: str, slots: int, batch: int, length: int) -> Point:
    """Measure one point."""
    bank = Bank(base, slots)
    trials = fill(bank, alike(base.spec, batch, slots), rows_of(base, length))
    bank.pace = Pace(is_learning=False)
    whole_s = step_s(bank, trials)
    bank.pace = Pace()
    usual = sum(x.slot.num_tokens for x in trials)
    while not bank.pace.is_settled(usual) and whole_s < LIMIT_S:
        train_step(bank, trials)
    limit = bank.pace.limit(usual)
    chosen_s = step_s(bank, trials) if limit != WHOLE and whole_s < LIMIT_S else whole_s
    return Point(
        shape=shape, dtype=base.spec.dtype, slots=slots, batch=batch, length=length, tokens=usual, whole_s=whole_s,
        chosen_s=chosen_s, chosen_limit=None if limit == WHOLE else limit,
    )  # fmt: skip


def step_s(bank: Bank, trials: list[Learner]) -> float:
    """Return the median seconds of a step."""
    times: list[float] = []
    train_step(bank, trials)
    while len(times) < ROUNDS and sum(times) < LIMIT_S:
        times.append(seconds(lambda: train_step(bank, trials)))
    return median(times)


def columns(points: list[Point]) -> dict[str, Callable[[Point], object]]:
    """Return what is shown of a point; a lone trial on the same base and rows is what it is measured by."""
    lone = {(p.shape, p.dtype, p.batch, p.length): p.tokens_per_s for p in points if p.slots == 1}
    return {
        "base": lambda p: p.shape,
        "type": lambda p: p.dtype,
        "batch × length": lambda p: f"{p.batch} × {p.length}",
        "K": lambda p: p.slots,
        "tokens": lambda p: p.tokens,
        "tokens/s in one pass": lambda p: f"{p.tokens / p.whole_s:.0f}",
        "in passes of": lambda p: p.chosen_limit or "all",
        "tokens/s": lambda p: f"{p.tokens_per_s:.0f}",
        "÷ lone trial": lambda p: f"{p.tokens_per_s / lone[p.shape, p.dtype, p.batch, p.length]:.2f}×",
    }


def main() -> None:
    parser = command_line(__doc__, __file__)
    parser.add_argument("--shapes", nargs="+", default=["tiny-1m", "small-15m", "medium-60m"], choices=list(SHAPES))
    parser.add_argument("--slots", nargs="+", type=int, default=[1, 2, 4, 8, 16, 32])
    args = parser.parse_args()
    points: list[Point] = []
    for shape, base in random_bases(args.shapes, [ModelSpec(id="", dtype="fp32"), ModelSpec(id="", dtype="bf16")]):
        for batch, length in ((1, 32), (8, 64)):
            points += [measure(base, shape, k, batch, length) for k in args.slots]
            write(args.out, points=[asdict(p) for p in points])
            print(markdown(columns(points), points[-1:], num_words=3).splitlines()[-1], flush=True)
    print(markdown(columns(points), points, num_words=3))


if __name__ == "__main__":
    main()
