"""An optimizer step is that of PyTorch, and none is taken on a loss that is no number."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lorasweep.bank import Bank
from lorasweep.base import Base
from lorasweep.base_info import resolve_targets
from lorasweep.learner import Learner, make_learner
from lorasweep.model import load_base
from lorasweep.spec import DType, EvalSpec, LoraSpec, ModelSpec, TrainSpec
from lorasweep.train import train_step
from tests.tiny import save_base, token_rows

TRAIN = TrainSpec(learning_rate=1e-2, per_device_train_batch_size=2, max_steps=10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("bases") / "llama", "llama")


def loaded(folder: Path, dtype: DType = "fp32") -> Base:
    return load_base(ModelSpec(id=str(folder), dtype=dtype), "cpu")


def joined(bank: Bank, number: int = 0, train: TrainSpec = TRAIN) -> Learner:
    lora = LoraSpec(r=4, lora_alpha=8, target_modules=resolve_targets(bank.base.spec, "qv"))
    return make_learner(bank.add(number, lora, number), train, token_rows(), EvalSpec(), bank.base.spec.dtype)


def state_of(learner: Learner) -> dict[str, Tensor]:
    """Return copies of all numbers that an optimizer step changes."""
    state = {k: x.clone() for k, x in learner.optimizer.state[learner.slot.vector].items() if isinstance(x, Tensor)}
    return {**state, "vector": learner.slot.vector.data.clone(), "rate": torch.tensor(learner.schedule.get_last_lr())}


def test_a_loss_that_is_no_number_leaves_vector_and_optimizer_untouched(folder: Path) -> None:
    base = loaded(folder)
    bank = Bank(base, 1)
    learner = joined(bank)
    for _ in range(3):
        train_step(bank, [learner])
    before, weight = state_of(learner), base.model.get_parameter("model.norm.weight")
    weight.data[0] = math.nan  # of the base, so that the loss and the whole gradient are no number
    train_step(bank, [learner])
    after = state_of(learner)
    assert math.isnan(learner.loss) and len(before) == 5
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert learner.step == 4 and not learner.slot.gradient.any()


def test_a_step_on_a_finite_loss_changes_all_of_these(folder: Path) -> None:
    bank = Bank(loaded(folder), 1)
    learner = joined(bank)
    train_step(bank, [learner])
    before = state_of(learner)
    train_step(bank, [learner])
    assert not any(torch.equal(value, before[name]) for name, value in state_of(learner).items())
