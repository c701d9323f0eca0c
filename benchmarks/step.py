"""How much faster is one optimizer step of K packed trials than K steps in stock PEFT, and how does that grow with K?

    python -m benchmarks.step [--model demo] [--case k16-b1-s32 mixed-k16 ...]

`--model` is the demo, a folder, a hub id or a name in `trials.SHAPES`. A case takes ten seconds on the demo, up to two
minutes on a base of 12M parameters and two cores. Rounds of both sides alternate, each side on the number of threads
that suits it. Stock PEFT runs one trial at a time, in fp32 (the default on a CPU) or on the same quantised base. It is
asserted that all adapters are trained and that both sides have the same losses.
"""

import os
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import torch

from benchmarks.output import command_line, write
from benchmarks.stock import StockTrial, stock_trial
from benchmarks.trials import SHAPES, Trial, fill, gemm_rate, rows_of, seconds, trial, write_base
from lorasweep.adapters.bank import Bank
from lorasweep.adapters.load import load_base
from lorasweep.adapters.pass_size import PassSize
from lorasweep.adapters.train import train_step
from lorasweep.core.spec import DType, ModelSpec, Precision
from lorasweep.data.render import TokenRow
from lorasweep.devices.cpu import num_cores
from lorasweep.models.base import DTYPES, Base

ROUNDS = 5
COMPARED = 12  # losses per trial; later ones differ by accumulated rounding
LOSS_GAP = {"fp32": 1e-5, "bf16": 0.2}  # relative above 1 nat per label token; bf16 is compared with fp32
RANKS, TARGETS, BATCHES = (4, 8, 16, 64), ("qv", "attention", "all-linear"), (1, 2, 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """K trials; `mixed`: they differ in rank, modules, batch size and length of rows."""

    slots: int
    batch: int = 1
    length: int = 32
    mixed: bool = False
    dtype: DType = "fp32"
    precision: Precision = "none"

    @property
    def name(self) -> str:
        size = f"mixed-k{self.slots}" if self.mixed else f"k{self.slots}-b{self.batch}-s{self.length}"
        return size + ("-nf4" if self.precision == "nf4" else "-bf16" if self.dtype == "bf16" else "")

    def trials(self, model: ModelSpec) -> list[Trial]:
        if not self.mixed:
            return [trial(model, i, batch=self.batch) for i in range(self.slots)]
        kinds = [(RANKS[i % 4], TARGETS[i % 3], BATCHES[(i // 2) % 3]) for i in range(self.slots)]
        return [trial(model, i, rank=r, targets=t, batch=b) for i, (r, t, b) in enumerate(kinds)]


def cases() -> list[Case]:
    """Return the grid: K by batch and length, mixed trials, in both types and on nf4."""
    fp32 = [Case(slots=k) for k in (1, 4, 16, 32)] + [Case(slots=k, batch=4, length=128) for k in (1, 4, 16)]
    fp32 += [Case(slots=k, mixed=True) for k in (4, 16, 32)]
    bf16 = [replace(case, dtype="bf16") for case in fp32]
    return fp32 + bf16 + [replace(c, precision="nf4") for c in bf16 if c.slots in (1, 16) and c.batch == 1]


def measure(
    base: Base, likes: Sequence[Base], trials: Sequence[Trial], rows: Sequence[TokenRow], device: str
) -> dict[str, Any]:
    """Time a step of these trials packed on `base`, and of the first trials alone, each on its own base in `likes`.

    Rounds of both sides alternate, except where `likes` is `base` alone.

    Raises:
        AssertionError: an adapter was not trained, or losses differ.
    """
    bank = Bank(base, len(trials))
    train_states = fill(bank, trials, rows)
    starts = [bank.adapter(x.slot) for x in train_states]
    num_tokens = sum(x.slot.num_tokens for x in train_states)
    pass_sizes: defaultdict[int, PassSize] = defaultdict(PassSize)
    stock: list[StockTrial] = []

    def packed() -> None:
        bank.pass_size = pass_sizes[torch.get_num_threads()]
        while not bank.pass_size.is_settled(num_tokens):
            train_step(bank, train_states)
        train_step(bank, train_states)

    def alone() -> None:
        for one in stock:
            one.step()

    is_shared = likes[0] is base
    times = typical_s(device, packed) if is_shared else []
    peak_bytes = 0 if device == "cpu" else torch.cuda.max_memory_allocated()
    if is_shared:
        Bank(base, 1)  # removes the adapters
    stock += [stock_trial(x.model, t, rows, start) for x, t, start in zip(likes, trials, starts, strict=False)]
    packed_s, stock_s = [*times, *typical_s(device, *([] if times else [packed]), alone)]
    stock[0].model.unload()
    pairs = [(ours[1], b) for x, y in zip(train_states, stock, strict=False)
             for ours, b in zip(x.losses[:COMPARED], y.losses, strict=False)]  # fmt: skip
    gap = max(abs(a - b) / max(1.0, b) for a, b in pairs)
    assert gap <= LOSS_GAP[base.spec.dtype], f"losses differ by {gap}"
    assert all(b.abs().sum() > 0 for x in train_states for _, b in x.slot.tensors.values()), "an untrained adapter"
    floor_s = 4 * base.info.num_linear_parameters * num_tokens / gemm_rate(DTYPES[base.spec.dtype], device)
    stock_s *= len(trials) / len(stock)
    return {
        "tokens": num_tokens, "stock_s": stock_s, "packed_s": packed_s, "stock_over_packed": stock_s / packed_s,
        "tokens_per_s": num_tokens / packed_s, "share_of_gemm_rate": floor_s / packed_s, "loss_gap": gap,
        "peak_bytes": peak_bytes,
    }  # fmt: skip


def typical_s(device: str, *sides: Callable[[], object]) -> list[float]:
    """Return the median seconds per step of each side; on a CPU with one or all threads, whichever is faster."""
    medians = []
    for threads in (1, num_cores()) if device == "cpu" else (1,):
        torch.set_num_threads(threads)
        rounds = [[seconds(side, device) for side in sides] for _ in range(1 + ROUNDS)]
        medians.append([median(times) for times in zip(*rounds[1:], strict=True)])  # the first round warms up
    return [min(of_side) for of_side in zip(*medians, strict=True)]


def run_case(case: Case, model_id: str) -> dict[str, Any]:
    """Load the bases of a case and measure it."""
    spec = ModelSpec(id=model_id, dtype=case.dtype, precision=case.precision)
    base = load_base(spec, "cpu")
    like = spec if case.precision != "none" else replace(spec, dtype="fp32")
    num_stock = case.slots if case.mixed else 1  # equal trials take equal time
    rows = rows_of(base, case.length, (0.5, 1.5) if case.mixed else (1.0, 1.0))
    return asdict(case) | measure(
        base, [load_base(like, "cpu") for _ in range(num_stock)], case.trials(spec), rows, "cpu"
    )


def main() -> None:
    parser = command_line(__doc__, __file__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--case", nargs="*", help="cases by name; all of them if left out")
    args = parser.parse_args()
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        model = str(write_base(Path(folder), args.model)) if args.model in SHAPES else args.model
        for case in [c for c in cases() if not args.case or c.name in args.case]:
            results.append({"name": case.name, **run_case(case, model)})
            table = write(args.out, {"cases": results}, model=args.model)
            print(table.splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()
