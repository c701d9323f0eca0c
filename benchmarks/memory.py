"""How far is predicted memory from the measured peak, over bases, batches, ranks and precisions?

    python -m benchmarks.memory [--case NAME ...]

Every case is measured in a fresh process: on a CPU the peak of resident memory above what it was before the base was
loaded, with a GPU the peak that PyTorch's allocator counts. A case takes ten seconds to two minutes on two cores.
"""

import gc
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch

from benchmarks.output import command_line, write
from benchmarks.trials import SHAPES, fill, rows_of, write_base
from lorasweep.adapters.bank import Bank
from lorasweep.adapters.load import load_base
from lorasweep.adapters.methods.lora import LoraSpec
from lorasweep.adapters.train import train_step
from lorasweep.core.spec import DataSpec, DType, EvalSpec, ModelSpec, Precision, TrainSpec, TrialSpec
from lorasweep.memory import footprint, lengths_of
from lorasweep.models.info import resolve_targets
from lorasweep.worker.memory_meter import Meter
from lorasweep.worker.scoring import PackedModel, score_suite

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "1000", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
STEPS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Equal trials that train together (or are scored together) on a base."""

    base: str = "demo"
    dtype: DType = "fp32"
    precision: Precision = "none"
    slots: int = 1
    batch: int = 4
    length: int = 128
    rank: int = 8
    targets: str = "qv"
    dropout: float = 0.0
    checkpointing: bool = False
    optim: Literal["adamw", "paged_adamw_8bit"] = "adamw"
    mode: Literal["train", "score", "write"] = "train"

    @property
    def name(self) -> str:
        """Return a name with the size and all values that are not defaults."""
        size = f"{self.base} k{self.slots} b{self.batch} s{self.length} r{self.rank} {self.targets} {self.dtype}"
        odd = {
            self.precision: self.precision != "none", "dropout": self.dropout > 0, "ckpt": self.checkpointing,
            "8bit": self.optim != "adamw", self.mode: self.mode != "train",
        }  # fmt: skip
        return " ".join([size, *(word for word, is_odd in odd.items() if is_odd)])


def cases() -> list[Case]:
    """Return the grid: cases for tokens, slots, ranks and bases, and for settings that reduce memory."""
    small = Case(base="llama-20m")
    long, low = replace(small, batch=8, length=256), replace(small, dtype="bf16")
    wide = Case(slots=8, batch=1, targets="all-linear", dtype="bf16")
    return [
        Case(slots=16, batch=8), Case(slots=24, batch=8, targets="all-linear", rank=16),
        replace(small, batch=1, length=64), replace(small, slots=16, batch=2),
        replace(small, slots=16, rank=64, targets="all-linear", batch=1), replace(low, slots=8, batch=2),
        *(replace(low, batch=8, length=256, checkpointing=c, targets="attention") for c in (False, True)),
        replace(long, dropout=0.1), replace(small, slots=8, rank=64, optim="paged_adamw_8bit"),
        replace(long, dtype="bf16", precision="nf4"), replace(long, dtype="bf16", precision="int8"),
        replace(long, base="llama-100m"), replace(wide, base="llama-60m"), replace(wide, base="llama-100m"),
        replace(small, slots=4, mode="score"), replace(small, slots=4, mode="write", length=256),
    ]  # fmt: skip


def measure(case: Case, model: str) -> dict[str, Any]:
    """Train or score the case in this process, and return predicted and measured bytes."""
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    torch.ones(8, 8, requires_grad=True).mm(torch.ones(8, 8)).sum().backward()  # type: ignore[no-untyped-call]
    spec = trial_of(case, ModelSpec(id=model, dtype=case.dtype, precision=case.precision))
    gc.collect()
    meter = Meter(torch.device(device))
    base = load_base(spec.model, device)
    rows = rows_of(base, case.length, (0.8, 1.0))
    gc.collect()
    meter.reset()  # the peak of loading is not predicted
    bank = Bank(base, case.slots)
    bank.pass_size.is_learning = False
    train_states = fill(bank, [(spec.lora, replace(spec.train, seed=i)) for i in range(case.slots)], rows)
    if case.mode != "train":
        slots = tuple(x.slot for x in train_states)
        score_suite(PackedModel(base, bank, slots, spec.eval.batch_rows), rows, spec.eval.all_metrics, spec.eval)
    else:
        if case.checkpointing:
            base.model.activation_checkpointing_enable()  # type: ignore[operator]
            base.model.train()
        for _ in range(STEPS):
            train_step(bank, train_states)
    kind, load = torch.device(device).type, (spec, lengths_of(rows, rows))
    need = footprint(base.info, [load] * case.slots, kind=kind, is_evaluated=case.mode != "train")
    predicted = (need if case.mode == "train" else replace(need, activations=0)).measurable(kind)
    measured = meter.peak_bytes()
    return {"case": case.name, "device": kind, "weights": need.weights, "predicted": predicted, "measured": measured,
            "error": round(predicted / measured - 1, 4)}  # fmt: skip


def trial_of(case: Case, model: ModelSpec) -> TrialSpec:
    """Return the case as a trial."""
    targets = resolve_targets(model, case.targets)
    return TrialSpec(
        model=model,
        lora=LoraSpec(r=case.rank, lora_alpha=case.rank, lora_dropout=case.dropout, target_modules=targets),
        train=TrainSpec(learning_rate=1e-4, per_device_train_batch_size=case.batch, max_steps=STEPS, optim=case.optim,
                        activation_checkpointing=case.checkpointing),
        data=DataSpec(train="random", format="text"),
        eval=EvalSpec(objective="loss" if case.mode != "write" else "exact_match", num_samples=0),
    )  # fmt: skip


def main() -> None:
    parser = command_line(__doc__, __file__)
    parser.add_argument("--case", nargs="*", default=[])
    parser.add_argument(
        "--point", nargs=2, metavar=("CASE", "MODEL"), help="measure a case, given as JSON, in this process"
    )
    args = parser.parse_args()
    if args.point:
        print(json.dumps(measure(Case(**json.loads(args.point[0])), args.point[1])))
        return
    points: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for case in [case for case in cases() if not args.case or case.name in args.case]:
            model = str(write_base(Path(folder), case.base, torch.bfloat16)) if case.base in SHAPES else case.base
            command = [sys.executable, "-m", "benchmarks.memory", "--point", json.dumps(asdict(case)), model]
            done = subprocess.run(command, env={**os.environ, **ENVIRONMENT}, stdout=subprocess.PIPE, check=True)
            points.append(json.loads(done.stdout.splitlines()[-1]))
            errors = sorted(abs(p["error"]) for p in points)
            note = f"Median error {median(errors):.1%}, worst {errors[-1]:.1%}."
            print(write(args.out, {"points": points}, note).splitlines()[-1], flush=True)
    print(note)


if __name__ == "__main__":
    main()
