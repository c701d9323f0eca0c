"""The packed side of the timing benchmarks: rows, trials that differ little, and a bank that trains them."""

import json
from collections.abc import Sequence

import torch

from lorasweep.adapters.bank import Bank
from lorasweep.adapters.train_state import Learner, make_learner, usual_tokens
from lorasweep.core.spec import EvalSpec, LoraSpec, ModelSpec, TrainSpec
from lorasweep.data.render import TokenRow
from lorasweep.models.base import Base
from lorasweep.models.info import DEMO, resolve_targets

TEXT = DEMO.parent / "data" / "answers" / "train.jsonl"
RANK = 16

Trial = tuple[LoraSpec, TrainSpec]


def rows_of(base: Base, length: int, *, mixed: bool = False, num: int = 64) -> list[TokenRow]:
    """Cut the demo's answers into rows, a quarter of each being labels; mixed ones differ in length by half."""
    text = " ".join(json.loads(line)["output"] for line in TEXT.read_text().splitlines())
    ids = base.tokenizer(text)["input_ids"]
    generator = torch.Generator().manual_seed(0)
    rows = []
    for _ in range(num):
        size = int(torch.randint(length // 2, length * 3 // 2, (), generator=generator)) if mixed else length
        start = int(torch.randint(0, len(ids) - size, (), generator=generator))
        prompt = size * 3 // 4
        labels = tuple(i >= prompt for i in range(size))
        rows.append(TokenRow(ids=tuple(ids[start : start + size]), is_label=labels, prompt_length=prompt))
    return rows


def alike(model: ModelSpec, batch: int, num: int) -> list[Trial]:
    """Return trials on all linears that differ in learning rate and seed."""
    lora = LoraSpec(r=RANK, lora_alpha=2 * RANK, target_modules=resolve_targets(model, "all-linear"))
    return [
        (lora, TrainSpec(learning_rate=1e-4 * (1 + i % 4), per_device_train_batch_size=batch, max_steps=10_000, seed=i))
        for i in range(num)
    ]


def fill(bank: Bank, trials: Sequence[Trial], rows: Sequence[TokenRow]) -> list[Learner]:
    """Give each trial a slot, and return what trains it."""
    learners = []
    for i, (lora, train) in enumerate(trials):
        slot = bank.add(i, lora, train.seed, usual_tokens(rows, train))
        learners.append(make_learner(slot, train, rows, EvalSpec(rungs=1), bank.base.spec.dtype))
    return learners
