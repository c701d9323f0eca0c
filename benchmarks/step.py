"""One optimizer step of K trials: packed in a bank, against stock PEFT one at a time and K adapters on one base.

    python -m benchmarks.step [--model demo] [--out benchmarks/step.json] [--case mixed ...]

Sides are interleaved. Each run asserts non-zero gradients, and losses equal to stock PEFT's in fp32.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import torch

from benchmarks.machine import gemm_rate, seconds
from benchmarks.packed import RANK, Trial, fill, rows_of
from benchmarks.stock import StockTrial, stock_trial
from benchmarks.tables import AGREEMENT, command_line, markdown, write
from lorasweep.adapters.bank import Bank
from lorasweep.adapters.load import load_base
from lorasweep.adapters.pass_size import Pace
from lorasweep.adapters.train import train_step
from lorasweep.core.spec import DType, LoraSpec, ModelSpec, Precision, TrainSpec
from lorasweep.data.batches import MicroBatch, micro_batches
from lorasweep.models.base import DTYPES, Base
from lorasweep.models.info import resolve_targets

ROUNDS, FEWEST_ROUNDS = 7, 3
COMPARED = 12  # first losses that both sides must agree on
PATIENCE_S = 30  # for the rounds of a case; a slow one gets fewer
TOLERANCE = 1e-5  # of fp32 losses, relative where they are above 1 nat per label token


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """K trials. `mixed` ones differ in rank, modules, batch size and learning rate."""

    name: str
    slots: int
    batch: int = 1
    length: int = 32
    mixed: bool = False
    dtype: DType = "fp32"
    precision: Precision = "none"


def cases() -> list[Case]:
    """Return the grid: K by batch and length, mixed trials, in both precisions of the arithmetic and on nf4."""
    grid = [Case(name=f"k{k}-b1-s32", slots=k) for k in (1, 4, 16, 32)]
    grid += [Case(name=f"k{k}-b4-s128", slots=k, batch=4, length=128) for k in (1, 4, 16)]
    grid += [Case(name=f"mixed-k{k}", slots=k, mixed=True) for k in (4, 16, 32)]
    low: list[Case] = [Case(**{**asdict(c), "name": c.name + "-bf16", "dtype": "bf16"}) for c in grid]
    nf4 = [Case(name=f"k{k}-b1-s32-nf4", slots=k, precision="nf4", dtype="bf16") for k in (1, 16)] + [
        Case(name="mixed-k16-nf4", slots=16, mixed=True, precision="nf4", dtype="bf16")
    ]
    return grid + low + nf4


RANKS, TARGETS, BATCHES = (4, 8, 16, 64), ("qv", "attention", "all-linear"), (1, 2, 4)


def trials(case: Case, model: ModelSpec) -> list[Trial]:
    """Return the case's trials."""
    specs: list[Trial] = []
    for i in range(case.slots):
        rank = RANKS[i % 4] if case.mixed else RANK
        names = TARGETS[i % 3] if case.mixed else "all-linear"
        lora = LoraSpec(r=rank, lora_alpha=2 * rank, target_modules=resolve_targets(model, names))
        train = TrainSpec(
            learning_rate=1e-4 * (1 + i % 5 if case.mixed else 1), lr_scheduler_type="constant",
            max_steps=10_000, seed=i, per_device_train_batch_size=BATCHES[(i // 2) % 3] if case.mixed else case.batch,
        )  # fmt: skip
        specs.append((lora, train))
    return specs


class Sides:
    """The three ways to take one step of every trial of a case."""

    def __init__(self, case: Case, model_id: str, stock_dtype: DType) -> None:
        self.case = case
        spec = ModelSpec(id=model_id, dtype=case.dtype, precision=case.precision)
        self.base = load_base(spec, "cpu")
        self.specs = trials(case, spec)
        self.rows = rows_of(self.base, case.length, mixed=case.mixed)
        self.bank = Bank(self.base, case.slots)
        self.learners = fill(self.bank, self.specs, self.rows)
        self.starts = [self.bank.adapter(x.slot) for x in self.learners]
        stock = ModelSpec(id=model_id, dtype=stock_dtype, precision=case.precision)
        self.alone = [self._stock(load_base(stock, "cpu").model, i) for i in range(case.slots)]
        self.looped: list[StockTrial] = []
        self.threads = 0
        shared: Any = load_base(stock, "cpu").model
        for i in range(case.slots):
            self.looped.append(self._stock(shared, i))
            shared = self.looped[-1].model

    def _batches(self, train: TrainSpec) -> Iterator[MicroBatch]:
        return micro_batches(self.rows, batch_size=train.per_device_train_batch_size, accumulation=1, seed=train.seed)

    def _stock(self, base: Any, i: int) -> StockTrial:
        lora, train = self.specs[i]
        return stock_trial(base, lora, train, self._batches(train), self.starts[i])

    def packed_step(self) -> None:
        train_step(self.bank, self.learners)

    def settled_step(self) -> None:
        """Take a step, once it is known how passes are best cut on as many threads as there are now."""
        usual = sum(x.slot.num_tokens for x in self.learners)
        if self.threads != torch.get_num_threads():
            self.threads, self.bank.pace = torch.get_num_threads(), Pace()
            while not self.bank.pace.is_settled(usual):
                self.packed_step()
        self.packed_step()

    def alone_step(self) -> None:
        for trial in self.alone:
            trial.step()

    def looped_step(self) -> None:
        for trial in self.looped:
            trial.step()

    def loss_gap(self) -> float:
        """Return the largest difference of any loss of any trial, in the first steps: later, rounding has grown."""
        gaps = []
        for learner, stock, looped in zip(self.learners, self.alone, self.looped, strict=True):
            packed = [loss for _, loss, _ in learner.losses[:COMPARED]]
            gaps += [abs(a - b) / max(1.0, b) for x in (stock, looped) for a, b in zip(packed, x.losses, strict=False)]
        return max(gaps)


def on_threads(count: int, act: Callable[[], None]) -> None:
    """Run something on so many threads."""
    usual = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        act()
    finally:
        torch.set_num_threads(usual)


def best_threads(act: Callable[[], None]) -> int:
    """Return the number of threads that suits a step best: small operations can be faster on one."""
    times = {}
    for count in sorted({1, torch.get_num_threads()}):
        times[count] = min(seconds(partial(on_threads, count, act)) for _ in range(3))
    return min(times, key=lambda count: times[count])


def floor_s(base: Base, num_tokens: int, rate: float) -> float:
    """Return the least time of a step: 4 operations per weight of the linears and token, at the measured GEMM rate."""
    return 4 * base.info.num_linear_parameters * num_tokens / rate


def run_case(case: Case, model_id: str) -> dict[str, Any]:
    """Measure one case: medians over interleaved rounds, and the ratio of every round."""
    # Stock PEFT always runs in fp32, the field's default on a CPU; on a quantised base it computes as the case does.
    sides = Sides(case, model_id, case.dtype if case.precision != "none" else "fp32")
    times: dict[str, list[float]] = {"packed": [], "alone": [], "looped": []}
    threads = {"packed": best_threads(sides.settled_step), "alone": best_threads(sides.alone[0].step)}
    acts = {
        "packed": partial(on_threads, threads["packed"], sides.settled_step),
        "alone": partial(on_threads, threads["alone"], sides.alone_step),
        "looped": partial(on_threads, threads["alone"], sides.looped_step),
    }
    for act in (acts["packed"], acts["alone"], acts["looped"]):
        act()
    tokens_before = sum(x.num_tokens for x in sides.learners)
    rounds = max(FEWEST_ROUNDS, min(ROUNDS, int(PATIENCE_S / sum(seconds(act) for act in acts.values()))))
    for _ in range(rounds):
        for name, act in acts.items():
            times[name].append(seconds(act))
    num_tokens = (sum(x.num_tokens for x in sides.learners) - tokens_before) / (1 + rounds)
    gap = sides.loss_gap()
    is_exact = case.dtype == "fp32"
    assert gap <= TOLERANCE or not is_exact, f"{case.name}: losses differ by {gap}"
    assert gap < 0.2, f"{case.name}: bf16 losses are far from fp32's: {gap}"
    assert all(trial.has_gradients() for trial in sides.alone)
    assert all(t.abs().sum() > 0 for x in sides.learners for pair in x.slot.matrices.values() for t in pair)
    rate = gemm_rate(DTYPES[case.dtype], "cpu")
    return {
        **asdict(case),
        **{f"{name}_s": median(values) for name, values in times.items()},
        "stock_over_packed": median(a / p for a, p in zip(times["alone"], times["packed"], strict=True)),
        "looped_over_packed": median(a / p for a, p in zip(times["looped"], times["packed"], strict=True)),
        "threads": threads,
        "rounds": rounds,
        "tokens": num_tokens,
        "share_of_gemm_rate": floor_s(sides.base, int(num_tokens), rate) / median(times["packed"]),
        "loss_gap": gap,
    }


COLUMNS: dict[str, Callable[[dict[str, Any]], object]] = {
    "case": lambda r: r["name"],
    "stock PEFT ms": lambda r: f"{1e3 * r['alone_s']:.1f}",
    "looped ms": lambda r: f"{1e3 * r['looped_s']:.1f}",
    "packed ms": lambda r: f"{1e3 * r['packed_s']:.1f}",
    "stock/packed": lambda r: f"**{r['stock_over_packed']:.2f}×**",
    "looped/packed": lambda r: f"{r['looped_over_packed']:.2f}×",
    **AGREEMENT,
}


def main() -> None:
    parser = command_line(__doc__, __file__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--case", nargs="*", help="cases by name; all of them if left out")
    args = parser.parse_args()
    results = []
    for case in [c for c in cases() if not args.case or c.name in args.case]:
        results.append(run_case(case, args.model))
        print(markdown(COLUMNS, results[-1:]).splitlines()[-1], flush=True)
        write(args.out, model=args.model, cases=results)
    print(markdown(COLUMNS, results))


if __name__ == "__main__":
    main()
