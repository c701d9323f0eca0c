"""Where packing helps and where it stops: time of a step against trials, tokens and the size of the base.

    python benchmarks/scaling.py [--shapes tiny-1m small-15m medium-60m] [--out benchmarks/scaling.json]

For every base and batch it trains K trials together, K = 1 to 32, in one pass and in the passes that the program
chooses by itself after trying, and reports tokens per second beside those of a lone trial.
"""

import argparse
import json
import os
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "1000")

from benchmarks.machine import describe_machine
from benchmarks.shapes import SHAPES, write_base
from benchmarks.step import rows_of
from lorasweep.bank import Bank
from lorasweep.base import Base
from lorasweep.base_info import resolve_targets
from lorasweep.learner import Learner, make_learner, usual_tokens
from lorasweep.model import load_base
from lorasweep.pace import WHOLE, Pace
from lorasweep.spec import DType, LoraSpec, ModelSpec, TrainSpec
from lorasweep.train import train_step

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


def learners(bank: Bank, slots: int, batch: int, length: int) -> list[Learner]:
    """Fill the bank with trials that differ in nothing but their seed."""
    rows = rows_of(bank.base, length, mixed=False)
    lora = LoraSpec(r=16, lora_alpha=32, target_modules=resolve_targets(bank.base.spec, "all-linear"))
    found = []
    for i in range(slots):
        train = TrainSpec(learning_rate=1e-4, per_device_train_batch_size=batch, max_steps=10_000, seed=i)
        slot = bank.add(i, lora, i, usual_tokens(rows, train))
        found.append(make_learner(slot, train, rows, 1, bank.base.spec.dtype))
    return found


def measure(base: Base, shape: str, slots: int, batch: int, length: int) -> Point:
    """Measure one point."""
    bank = Bank(base, slots)
    trials = learners(bank, slots, batch, length)
    bank.pace = Pace(is_learning=False)
    whole_s = step_s(bank, trials)
    bank.pace = Pace()
    usual = sum(x.slot.num_tokens for x in trials)
    while not bank.pace.is_settled(usual) and whole_s < LIMIT_S:
        train_step(bank, trials)
    limit = bank.pace.limit(usual)
    chosen_s = step_s(bank, trials) if limit != WHOLE and whole_s < LIMIT_S else whole_s
    return Point(
        shape=shape,
        dtype=base.spec.dtype,
        slots=slots,
        batch=batch,
        length=length,
        tokens=usual,
        whole_s=whole_s,
        chosen_s=chosen_s,
        chosen_limit=None if limit == WHOLE else limit,
    )


def step_s(bank: Bank, trials: list[Learner]) -> float:
    """Return the median seconds of a step."""
    times: list[float] = []
    train_step(bank, trials)
    while len(times) < ROUNDS and sum(times) < LIMIT_S:
        started = time.perf_counter()
        train_step(bank, trials)
        times.append(time.perf_counter() - started)
    return median(times)


def table(points: list[Point]) -> str:
    """Return the points as a Markdown table."""
    lines = [
        "| base | type | batch × length | K | tokens | tokens/s in one pass | in passes of | tokens/s | ÷ lone trial |"
    ]
    lines.append("|---|---|---|--:|--:|--:|--:|--:|--:|")
    lone = {(p.shape, p.dtype, p.batch, p.length): p.tokens / p.chosen_s for p in points if p.slots == 1}
    for p in points:
        rate = p.tokens / p.chosen_s
        lines.append(
            f"| {p.shape} | {p.dtype} | {p.batch} × {p.length} | {p.slots} | {p.tokens} | {p.tokens / p.whole_s:.0f} "
            f"| {p.chosen_limit or 'all'} | {rate:.0f} | {rate / lone[p.shape, p.dtype, p.batch, p.length]:.2f}× |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["tiny-1m", "small-15m", "medium-60m"], choices=list(SHAPES))
    parser.add_argument("--slots", nargs="+", type=int, default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    args = parser.parse_args()
    points: list[Point] = []
    for shape in args.shapes:
        with tempfile.TemporaryDirectory() as folder:
            path = write_base(Path(folder), shape)
            for dtype in ("fp32", "bf16"):
                base = load_base(ModelSpec(id=str(path), dtype=dtype), "cpu")
                for batch, length in ((1, 32), (8, 64)):
                    points += [measure(base, shape, k, batch, length) for k in args.slots]
                    record: dict[str, Any] = {"machine": describe_machine(), "points": [asdict(p) for p in points]}
                    args.out.write_text(json.dumps(record, indent=1) + "\n")
                    print(table(points).splitlines()[-1], flush=True)
    print(table(points))


if __name__ == "__main__":
    main()
