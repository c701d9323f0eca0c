"""What a GPU gains: packed bf16 and nf4 against stock PEFT, at 0.5 to 8 billion parameters, with memory.

    python -m benchmarks.gpu [--out benchmarks/gpu.json] [--budget-s 540]

One call, under ten minutes, one GPU. Bases have the shapes of well-known models and random weights. A case that would
start after the budget is left out and listed as such. `--device cpu --shapes tiny-1m` tries the script itself out.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

from benchmarks.machine import gemm_rate, seconds
from benchmarks.packed import alike, fill, rows_of
from benchmarks.shapes import SHAPES, random_bases
from benchmarks.stock import stock_trial
from benchmarks.tables import AGREEMENT, command_line, markdown, write
from lorasweep.adapters.bank import Bank
from lorasweep.adapters.train import train_step
from lorasweep.core.spec import DataSpec, EvalSpec, ModelSpec, Precision, TrialSpec
from lorasweep.data.batches import micro_batches
from lorasweep.memory import footprint, lengths_of
from lorasweep.models.base import Base

LENGTH, ROUNDS = 256, 5
PRECISIONS: tuple[Precision, ...] = ("none", "nf4")
LOSS_GAP = 0.05  # nats; bf16 sums in another order


def typical_s(act: Callable[[], object], device: str) -> float:
    """Return the median seconds of some rounds, after two to warm up."""
    return median([seconds(act, device) for _ in range(2 + ROUNDS)][2:])


def packed(base: Base, batch: int, slots: int, device: str) -> dict[str, Any]:
    """Measure a bank of so many trials."""
    if device != "cpu":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    bank = Bank(base, slots)
    learners = fill(bank, alike(base.spec, batch, slots), rows_of(base, LENGTH))
    start = bank.adapter(learners[0].slot)
    step_s = typical_s(lambda: train_step(bank, learners), device)
    moved = [float(b.abs().max()) for x in learners for _, b in x.slot.matrices.values()]
    assert min(moved) > 0, "an adapter got no gradient"
    return {
        "seconds": step_s,
        "tokens": slots * batch * LENGTH,
        "predicted_bytes": predicted_bytes(base, batch, slots, device),
        "peak_bytes": 0 if device == "cpu" else torch.cuda.max_memory_allocated(),
        "losses": [loss for _, loss, _ in learners[0].losses],
        "start": start,
    }


def predicted_bytes(base: Base, batch: int, slots: int, device: str) -> int:
    """Return what lorasweep predicts that training these trials needs."""
    rows = rows_of(base, LENGTH)
    data = DataSpec(train="", format="text")
    loads = [
        (TrialSpec(model=base.spec, lora=lora, train=train, data=data, eval=EvalSpec()), lengths_of(rows, rows))
        for lora, train in alike(base.spec, batch, slots)
    ]
    return footprint(base.info, loads, kind="cpu" if device == "cpu" else "cuda", is_evaluated=False).total


def alone(base: Base, batch: int, start: dict[str, torch.Tensor], device: str) -> dict[str, Any]:
    """Measure one trial in stock PEFT on the same base, and take its adapter off again."""
    rows = rows_of(base, LENGTH)
    lora, train = alike(base.spec, batch, 1)[0]
    Bank(base, 1)  # takes the last bank's adapters off
    batches = micro_batches(rows, batch_size=batch, accumulation=1, seed=train.seed)
    trial = stock_trial(base.model, lora, train, batches, start)
    step_s = typical_s(trial.step, device)
    trial.model.unload()
    return {"seconds": step_s, "losses": trial.losses}


def measure(base: Base, shape: str, batch: int, counts: list[int], device: str, rate: float) -> list[dict[str, Any]]:
    """Measure packed trials beside stock PEFT, which takes K times as long for K trials."""
    results = []
    reference: dict[str, Any] | None = None
    for slots in counts:
        found = packed(base, batch, slots, device)
        start = found.pop("start")
        reference = reference or alone(base, batch, start, device)
        losses = found.pop("losses")
        gap = max(abs(a - b) for a, b in zip(losses, reference["losses"], strict=False))
        assert gap < LOSS_GAP, f"{shape}: losses differ by {gap}"
        floor = 4 * base.info.num_linear_parameters * found["tokens"] / rate
        results.append({
            "shape": shape, "precision": base.spec.precision, "batch": batch, "slots": slots, **found,
            "tokens_per_s": found["tokens"] / found["seconds"],
            "stock_over_packed": slots * reference["seconds"] / found["seconds"],
            "share_of_gemm_rate": floor / found["seconds"],
            "loss_gap": gap,
        })  # fmt: skip
        print(json.dumps(results[-1]), flush=True)
    return results


def sweep(device: str) -> dict[str, Any]:
    """Run a real sweep of 60 configurations of the demo base, as a whole process."""
    with tempfile.TemporaryDirectory() as folder:
        devices = f"devices={'cpu' if device == 'cpu' else 'auto'}"
        command = [sys.executable, "-m", "lorasweep", "+sweep=rank_alpha", devices]
        command += ["lora.r=2,4,8,16,32", "lora.lora_alpha=8,16,32,64", "lora.target_modules=qv,attention,all-linear"]
        started = time.perf_counter()
        done = subprocess.run([*command, f"output_dir={folder}/out"], capture_output=True, text=True, check=False)
    wall_s = time.perf_counter() - started
    return {"trials": 60, "wall_s": wall_s, "returncode": done.returncode, "tail": done.stdout[-2000:]}


COLUMNS: dict[str, Callable[[dict[str, Any]], object]] = {
    "base": lambda r: r["shape"],
    "precision": lambda r: r["precision"],
    "batch": lambda r: r["batch"],
    "K": lambda r: r["slots"],
    "tokens/s": lambda r: f"{r['tokens_per_s']:.0f}",
    "× stock PEFT": lambda r: f"{r['stock_over_packed']:.2f}",
    "peak GiB": lambda r: f"{r['peak_bytes'] / 2**30:.1f}",
    "predicted": lambda r: f"{r['predicted_bytes'] / 2**30:.1f}",
    **AGREEMENT,
}


def main() -> None:
    parser = command_line(__doc__, __file__)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--shapes", nargs="+", default=["0.5b", "1b", "8b"], choices=list(SHAPES))
    parser.add_argument("--slots", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--without-sweep", action="store_true")
    parser.add_argument("--budget-s", type=float, default=540)
    args = parser.parse_args()
    begun = time.perf_counter()
    rate = gemm_rate(torch.bfloat16, args.device)
    found: dict[str, Any] = {"device": device_name(args.device), "bf16_gemm_rate": rate, "cases": [], "left_out": []}
    found["sweep"] = {} if args.without_sweep else sweep(args.device)
    models = [ModelSpec(id="", dtype="bf16", precision=precision) for precision in PRECISIONS]
    for shape, base in random_bases(args.shapes, models, args.device, torch.bfloat16):
        for batch in args.batches:
            case = [shape, base.spec.precision, batch]
            if time.perf_counter() - begun > args.budget_s:
                found["left_out"].append(case)
                continue
            try:
                found["cases"] += measure(base, shape, batch, args.slots, args.device, rate)
            except torch.OutOfMemoryError as error:
                found["left_out"].append([*case, str(error).splitlines()[0]])
            write(args.out, **found)
    print(markdown(COLUMNS, found["cases"], num_words=2))
    print(json.dumps({key: found[key] for key in ("left_out", "sweep")}, indent=1))


def device_name(device: str) -> str:
    """Return the GPU's name."""
    return "CPU" if device == "cpu" else torch.cuda.get_device_name(device)


if __name__ == "__main__":
    main()
