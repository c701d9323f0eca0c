"""What a GPU gains: packed bf16 and nf4 against stock PEFT, at 0.5 to 8 billion parameters, with memory.

    python benchmarks/gpu.py [--out benchmarks/gpu.json] [--budget-s 540]

One call, under ten minutes, one GPU. Bases have the shapes of well-known models and random weights. A case that would
start after the budget is left out and listed as such. `--device cpu --shapes tiny-1m` tries the script itself out.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.machine import describe_machine, gemm_rate
from benchmarks.shapes import SHAPES, write_base
from benchmarks.step import rows_of
from benchmarks.stock import stock_trial
from lorasweep.bank import Bank
from lorasweep.base import Base
from lorasweep.base_info import resolve_targets
from lorasweep.data.batches import micro_batches
from lorasweep.learner import make_learner, usual_tokens
from lorasweep.memory import footprint, lengths_of
from lorasweep.model import load_base
from lorasweep.spec import DataSpec, EvalSpec, LoraSpec, ModelSpec, Precision, TrainSpec, TrialSpec
from lorasweep.train import train_step

LENGTH, RANK, ROUNDS = 256, 16, 5
LOSS_GAP = 0.05  # nats; bf16 sums in another order


def specs(base: Base, batch: int, num: int) -> list[tuple[LoraSpec, TrainSpec]]:
    """Return trials on all linears that differ in learning rate and seed."""
    lora = LoraSpec(r=RANK, lora_alpha=2 * RANK, target_modules=resolve_targets(base.spec, "all-linear"))
    return [
        (lora, TrainSpec(learning_rate=1e-4 * (1 + i % 4), per_device_train_batch_size=batch, max_steps=10_000, seed=i))
        for i in range(num)
    ]


def timed(act: Callable[[], object], device: str) -> float:
    """Return the median seconds of some rounds, after two to warm up."""
    times = []
    for _ in range(2 + ROUNDS):
        synchronize(device)
        started = time.perf_counter()
        act()
        synchronize(device)
        times.append(time.perf_counter() - started)
    return median(times[2:])


def synchronize(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def packed(base: Base, batch: int, slots: int, device: str) -> dict[str, Any]:
    """Measure a bank of so many trials."""
    rows = rows_of(base, LENGTH, mixed=False)
    if device != "cpu":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    bank = Bank(base, slots)
    learners = []
    for i, (lora, train) in enumerate(specs(base, batch, slots)):
        slot = bank.add(i, lora, i, usual_tokens(rows, train))
        learners.append(make_learner(slot, train, rows, 1, base.spec.dtype))
    start = bank.adapter(learners[0].slot)
    seconds = timed(lambda: train_step(bank, learners), device)
    moved = [float(b.abs().max()) for x in learners for _, b in x.slot.matrices.values()]
    assert min(moved) > 0, "an adapter got no gradient"
    return {
        "seconds": seconds,
        "tokens": slots * batch * LENGTH,
        "predicted_bytes": predicted_bytes(base, batch, slots, device),
        "peak_bytes": 0 if device == "cpu" else torch.cuda.max_memory_allocated(),
        "losses": [loss for _, loss, _ in learners[0].losses],
        "start": start,
    }


def predicted_bytes(base: Base, batch: int, slots: int, device: str) -> int:
    """Return what lorasweep predicts that training these trials needs."""
    rows = rows_of(base, LENGTH, mixed=False)
    data = DataSpec(train="", format="text")
    loads = [
        (TrialSpec(model=base.spec, lora=lora, train=train, data=data, eval=EvalSpec()), lengths_of(rows, rows))
        for lora, train in specs(base, batch, slots)
    ]
    return footprint(base.info, loads, kind="cpu" if device == "cpu" else "cuda", is_evaluated=False).total


def alone(base: Base, batch: int, start: dict[str, torch.Tensor], device: str) -> dict[str, Any]:
    """Measure one trial in stock PEFT on the same base, and take its adapter off again."""
    rows = rows_of(base, LENGTH, mixed=False)
    lora, train = specs(base, batch, 1)[0]
    Bank(base, 1)  # takes the last bank's adapters off
    batches = micro_batches(rows, batch_size=batch, accumulation=1, seed=train.seed)
    trial = stock_trial(base.model, lora, train, batches, start)
    seconds = timed(trial.step, device)
    trial.model.unload()
    return {"seconds": seconds, "losses": trial.losses}


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
        command = [
            sys.executable,
            "-m",
            "lorasweep",
            "+sweep=rank_alpha",
            f"devices={'cpu' if device == 'cpu' else 'auto'}",
        ]
        command += ["lora.r=2,4,8,16,32", "lora.lora_alpha=8,16,32,64", "lora.target_modules=qv,attention,all-linear"]
        started = time.perf_counter()
        done = subprocess.run([*command, f"output_dir={folder}/out"], capture_output=True, text=True, check=False)
    return {
        "trials": 60,
        "wall_s": time.perf_counter() - started,
        "returncode": done.returncode,
        "tail": done.stdout[-2000:],
    }


def table(results: list[dict[str, Any]]) -> str:
    """Return the results as a Markdown table."""
    lines = [
        "| base | precision | batch | K | tokens/s | × stock PEFT | of GEMM rate | peak GiB | predicted | max Δloss |"
    ]
    lines.append("|---|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    for r in results:
        lines.append(
            f"| {r['shape']} | {r['precision']} | {r['batch']} | {r['slots']} | {r['tokens_per_s']:.0f} "
            f"| {r['stock_over_packed']:.2f} | {r['share_of_gemm_rate']:.0%}"
            f" | {r['peak_bytes'] / 2**30:.1f} | {r['predicted_bytes'] / 2**30:.1f} "
            f"| {r['loss_gap']:.1g} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--shapes", nargs="+", default=["0.5b", "1b", "8b"], choices=list(SHAPES))
    parser.add_argument("--slots", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--without-sweep", action="store_true")
    parser.add_argument("--budget-s", type=float, default=540)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    args = parser.parse_args()
    begun = time.perf_counter()
    rate = gemm_rate(torch.bfloat16, args.device)
    record: dict[str, Any] = {"machine": describe_machine(), "device": device_name(args.device), "bf16_gemm_rate": rate}
    record |= {"cases": [], "left_out": [], "sweep": {} if args.without_sweep else sweep(args.device)}
    for shape in args.shapes:
        with tempfile.TemporaryDirectory() as folder:
            path = write_base(Path(folder), shape, torch.bfloat16, args.device)
            precisions: list[Precision] = ["none", "nf4"]
            for precision in precisions:
                base = load_base(ModelSpec(id=str(path), dtype="bf16", precision=precision), args.device)
                for batch in args.batches:
                    if time.perf_counter() - begun > args.budget_s:
                        record["left_out"].append([shape, precision, batch])
                        continue
                    try:
                        record["cases"] += measure(base, shape, batch, args.slots, args.device, rate)
                    except torch.OutOfMemoryError as error:
                        record["left_out"].append([shape, precision, batch, str(error).splitlines()[0]])
                    args.out.write_text(json.dumps(record, indent=1) + "\n")
    print(table(record["cases"]))
    print(json.dumps({key: record[key] for key in ("left_out", "sweep")}, indent=1))


def device_name(device: str) -> str:
    """Return the GPU's name."""
    return "CPU" if device == "cpu" else torch.cuda.get_device_name(device)


if __name__ == "__main__":
    main()
