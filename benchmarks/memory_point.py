"""One point of memory.py: load a base, take steps or score, and print predicted and measured bytes as JSON."""

import gc
import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.memory_cases import Case
from benchmarks.packed import fill
from lorasweep.adapters.bank import Bank
from lorasweep.adapters.load import load_base
from lorasweep.adapters.train import train_step
from lorasweep.core.spec import DataSpec, EvalSpec, LoraSpec, ModelSpec, TrainSpec, TrialSpec
from lorasweep.data.render import TokenRow
from lorasweep.memory import Lengths, footprint, lengths_of
from lorasweep.models.base import Base
from lorasweep.models.info import resolve_targets
from lorasweep.worker.memory_meter import Meter
from lorasweep.worker.scoring import Asked, score_suite

STEPS = 6


def trial(case: Case, folder: Path) -> TrialSpec:
    """Return the case as a trial."""
    path = case.base if case.base == "demo" else str(folder / case.base)
    model = ModelSpec(id=path, dtype=case.dtype, precision=case.precision)
    return TrialSpec(
        model=model,
        lora=LoraSpec(r=case.rank, lora_alpha=case.rank, lora_dropout=case.dropout,
                      target_modules=resolve_targets(model, case.targets)),
        train=TrainSpec(learning_rate=1e-4, per_device_train_batch_size=case.batch, max_steps=STEPS, optim=case.optim,
                        activation_checkpointing=case.checkpointing),
        data=DataSpec(train="random", format="text"),
        eval=EvalSpec(objective="loss" if case.mode != "write" else "exact_match", num_samples=0),
    )  # fmt: skip


def rows_of(case: Case, vocab: int) -> list[TokenRow]:
    """Return random rows, a quarter of each being labels; their lengths differ by a fifth."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for _ in range(64):
        size = int(torch.randint(case.length * 4 // 5, case.length + 1, (), generator=generator))
        ids = torch.randint(8, vocab, (size,), generator=generator).tolist()
        cut = size * 3 // 4
        rows.append(TokenRow(ids=tuple(ids), is_label=tuple(i >= cut for i in range(size)), prompt_length=cut))
    return rows


def train(base: Base, spec: TrialSpec, case: Case, rows: list[TokenRow]) -> None:
    """Train every slot for a few steps in one pass."""
    bank = Bank(base, case.slots)
    bank.pace.is_learning = False
    learners = fill(bank, [(spec.lora, replace(spec.train, seed=i)) for i in range(case.slots)], rows)
    if case.checkpointing:
        base.model.activation_checkpointing_enable()  # type: ignore[operator]
        base.model.train()
    for _ in range(STEPS):
        train_step(bank, learners)


def score(base: Base, spec: TrialSpec, case: Case, rows: list[TokenRow]) -> None:
    """Score all slots together."""
    bank = Bank(base, case.slots)
    slots = tuple(bank.add(i, spec.lora, i) for i in range(case.slots))
    score_suite(Asked(base, bank, slots, spec.eval.batch_rows), rows, spec.eval.all_metrics, spec.eval)


def main() -> None:
    """Measure the case on the command line."""
    case, folder = Case(**json.loads(sys.argv[1])), Path(sys.argv[2])
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    spec = trial(case, folder)
    torch.ones(8, 8, requires_grad=True).mm(torch.ones(8, 8)).sum().backward()  # type: ignore[no-untyped-call]
    gc.collect()
    meter = Meter(torch.device(device))
    base = load_base(spec.model, device)
    rows = rows_of(case, base.info.vocab_size)
    lengths: Lengths = lengths_of(rows, rows)
    gc.collect()
    meter.reset()  # the peak of loading is another matter
    (train if case.mode == "train" else score)(base, spec, case, rows)
    kind = torch.device(device).type
    need = footprint(base.info, [(spec, lengths)] * case.slots, kind=kind, is_evaluated=case.mode != "train")
    if case.mode != "train":
        need = replace(need, activations=0)
    values = {"weights": need.weights, "predicted": need.measurable(kind), "measured": meter.peak_bytes()}
    print(json.dumps({"case": case.name, "device": kind, **values}))


if __name__ == "__main__":
    main()
