"""Train trials on random rows and print the predicted and the measured peak in bytes, as JSON.

Run in a separate process, because resident memory does not shrink:
`python -m tests.memory.measured SLOTS BATCH DTYPE TARGETS RANK`.
"""

import gc
import json
import sys
from dataclasses import replace
from typing import get_args

import torch

from lorasweep.adapters.bank import Bank
from lorasweep.adapters.load import load_base
from lorasweep.adapters.methods.lora import LoraSpec
from lorasweep.adapters.train import train_step
from lorasweep.adapters.train_state import make_train_state, usual_tokens
from lorasweep.core.spec import DataSpec, DType, EvalSpec, ModelSpec, TrainSpec, TrialSpec
from lorasweep.data.render import TokenRow
from lorasweep.memory import footprint, lengths_of
from lorasweep.models.info import resolve_targets
from lorasweep.worker.memory_meter import Meter

LENGTH, STEPS = 128, 6


def trial_of(batch: int, dtype: str, targets: str, rank: int) -> TrialSpec:
    """Return a trial on the demo base."""
    model = ModelSpec(id="demo", dtype=next(d for d in get_args(DType) if d == dtype))
    return TrialSpec(
        model=model,
        lora=LoraSpec(r=rank, lora_alpha=rank, target_modules=resolve_targets(model, targets)),
        train=TrainSpec(learning_rate=1e-4, per_device_train_batch_size=batch, max_steps=STEPS),
        data=DataSpec(train="random", format="text"),
        eval=EvalSpec(),
    )


def random_rows(vocab: int) -> list[TokenRow]:
    """Return rows of nearly equal length, a quarter of each being labels."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for _ in range(64):
        size = int(torch.randint(LENGTH * 4 // 5, LENGTH + 1, (), generator=generator))
        ids, prompt = torch.randint(8, vocab, (size,), generator=generator).tolist(), size * 3 // 4
        rows.append(TokenRow(ids=tuple(ids), is_label=tuple(i >= prompt for i in range(size)), prompt_length=prompt))
    return rows


def main(slots: int, spec: TrialSpec) -> None:
    """Train a full bank for a few steps in one pass."""
    torch.ones(8, 8, requires_grad=True).mm(torch.ones(8, 8)).sum().backward()  # type: ignore[no-untyped-call]
    gc.collect()
    meter = Meter(torch.device("cpu"))
    base = load_base(spec.model, "cpu")
    rows = random_rows(base.info.vocab_size)
    gc.collect()
    meter.reset()  # the peak of loading is not predicted
    bank = Bank(base, slots)
    bank.pass_size.is_learning = False
    trains = [replace(spec.train, seed=i) for i in range(slots)]
    slot_of = [bank.add(i, spec.lora, i, usual_tokens(rows, train)) for i, train in enumerate(trains)]
    train_states = [
        make_train_state(s, t, rows, spec.eval, spec.model.dtype) for s, t in zip(slot_of, trains, strict=True)
    ]
    for _ in range(STEPS):
        train_step(bank, train_states)
    need = footprint(base.info, [(spec, lengths_of(rows, rows))] * slots, is_evaluated=False)
    print(json.dumps({"predicted": need.measurable("cpu"), "measured": meter.peak_bytes()}))


if __name__ == "__main__":
    num_slots, batch, dtype, targets, rank = sys.argv[1:]
    main(int(num_slots), trial_of(int(batch), dtype, targets, int(rank)))
