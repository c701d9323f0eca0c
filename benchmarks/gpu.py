"""How much faster is packing on a GPU than stock PEFT? In bf16 and nf4, 0.5 to 8 billion parameters, with memory.

    python -m benchmarks.gpu [--budget-s 540]

One call, under ten minutes, one GPU. Bases have the shapes of well-known models and random weights. A case that would
start after the budget is listed under `left_out`. In a minute without a GPU:

    python -m benchmarks.gpu --device cpu --shapes tiny-1m --slots 1 2 --batches 1 --without-sweep --out /tmp/gpu.json
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import step
from benchmarks.output import command_line, write
from benchmarks.trials import SHAPES, rows_of, trial, write_base
from lorasweep.adapters.load import load_base
from lorasweep.core.spec import DataSpec, EvalSpec, ModelSpec, Precision, TrialSpec
from lorasweep.memory import footprint, lengths_of
from lorasweep.models.base import Base

LENGTH = 256
PRECISIONS: tuple[Precision, ...] = ("none", "nf4")


def measure(base: Base, batch: int, slots: int, device: str) -> dict[str, Any]:
    """Measure the time and memory of packed trials, and of stock PEFT, which takes K times as long for K trials."""
    if device != "cpu":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    trials, rows = [trial(base.spec, i, batch=batch) for i in range(slots)], rows_of(base, LENGTH)
    data = DataSpec(train="", format="text")
    specs = [TrialSpec(model=base.spec, lora=lora, train=train, data=data, eval=EvalSpec()) for lora, train in trials]
    kind = "cpu" if device == "cpu" else "cuda"
    need = footprint(base.info, [(spec, lengths_of(rows, rows)) for spec in specs], kind=kind, is_evaluated=False)
    found = step.measure(base, [base], trials, rows, device)
    return {"batch": batch, "slots": slots, **found, "predicted_bytes": need.measurable(kind)}


def sweep(device: str) -> dict[str, Any]:
    """Run a real sweep of 60 configurations on the demo base in a separate process."""
    with tempfile.TemporaryDirectory() as folder:
        devices = f"devices={'cpu' if device == 'cpu' else 'auto'}"
        command = [sys.executable, "-m", "lorasweep", "+sweep=rank_alpha", devices, f"output_dir={folder}/out"]
        command += ["lora.r=2,4,8,16,32", "lora.lora_alpha=8,16,32,64", "lora.target_modules=qv,attention,all-linear"]
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    wall_s = time.perf_counter() - started
    return {"trials": 60, "wall_s": wall_s, "returncode": done.returncode, "tail": done.stdout[-2000:]}


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
    results: list[dict[str, Any]] = []
    facts: dict[str, Any] = {"sweep": {} if args.without_sweep else sweep(args.device), "left_out": []}
    for shape in args.shapes:
        with tempfile.TemporaryDirectory() as folder:
            path = str(write_base(Path(folder), shape, torch.bfloat16, args.device))
            for precision in PRECISIONS:
                base = load_base(ModelSpec(id=path, dtype="bf16", precision=precision), args.device)
                for batch, slots in [(b, k) for b in args.batches for k in args.slots]:
                    name = {"shape": shape, "precision": precision}
                    try:
                        if time.perf_counter() - begun > args.budget_s:
                            raise TimeoutError("out of time")
                        results.append(name | measure(base, batch, slots, args.device))
                        print(results[-1], flush=True)
                    except (TimeoutError, torch.OutOfMemoryError) as error:
                        facts["left_out"].append({**name, "batch": batch, "slots": slots, "why": str(error)})
                    table = write(args.out, {"cases": results}, **facts)
    print(table, *facts.items(), sep="\n\n")


if __name__ == "__main__":
    main()
