"""An optimizer step equals that of PyTorch; with a NaN loss there is no step."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lorasweep.adapters import stack_plan
from lorasweep.adapters.bank import Bank
from lorasweep.adapters.load import load_base
from lorasweep.adapters.methods.lora import LoraSpec
from lorasweep.adapters.train import train_step
from lorasweep.adapters.train_state import TrainState, make_train_state, mean_loss
from lorasweep.core.spec import DType, EvalSpec, ModelSpec, Optimizer, TrainSpec
from lorasweep.models.base import Base
from lorasweep.models.info import resolve_targets
from tests.tiny import save_base, token_rows

TRAIN = TrainSpec(learning_rate=1e-2, per_device_train_batch_size=2, max_steps=10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("bases") / "llama", "llama")


def loaded(folder: Path, dtype: DType = "fp32") -> Base:
    return load_base(ModelSpec(id=str(folder), dtype=dtype), "cpu")


def joined(bank: Bank, number: int = 0, train: TrainSpec = TRAIN) -> TrainState:
    lora = LoraSpec(r=4, lora_alpha=8, target_modules=resolve_targets(bank.base.spec, "qv"))
    return make_train_state(bank.add(number, lora, number), train, token_rows(), EvalSpec(), bank.base.spec.dtype)


def state_of(train_state: TrainState) -> dict[str, Tensor]:
    """Return copies of all numbers that an optimizer step changes."""
    state = {
        k: x.clone() for k, x in train_state.optimizer.state[train_state.slot.vector].items() if isinstance(x, Tensor)
    }
    return {
        **state,
        "vector": train_state.slot.vector.data.clone(),
        "rate": torch.tensor(train_state.schedule.get_last_lr()),
    }


def test_a_loss_that_is_no_number_leaves_vector_and_optimizer_untouched(folder: Path) -> None:
    base = loaded(folder)
    bank = Bank(base, 1)
    train_state = joined(bank)
    for _ in range(3):
        train_step(bank, [train_state])
    before, weight = state_of(train_state), base.model.get_parameter("model.norm.weight")
    weight.data[0] = math.nan  # of the base, so that the loss and the whole gradient are NaN
    train_step(bank, [train_state])
    after = state_of(train_state)
    assert math.isnan(train_state.loss) and len(before) == 5
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert train_state.step == 4 and not train_state.slot.gradient.any()


def test_a_step_on_a_finite_loss_changes_all_of_these(folder: Path) -> None:
    bank = Bank(loaded(folder), 1)
    train_state = joined(bank)
    train_step(bank, [train_state])
    before = state_of(train_state)
    train_step(bank, [train_state])
    assert not any(torch.equal(value, before[name]) for name, value in state_of(train_state).items())


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_a_gradient_is_clipped_at_its_true_size(folder: Path, dtype: DType) -> None:
    """In fp16 the loss is scaled, so gradients are 65,536 times too large until they are scaled back."""
    bank = Bank(loaded(folder, dtype), 1)
    train_state = joined(bank, train=replace(TRAIN, max_grad_norm=1e-3))
    train_step(bank, [train_state])
    moment = train_state.optimizer.state[train_state.slot.vector]["exp_avg"]
    assert float(moment.norm()) == pytest.approx((1 - TRAIN.adam_beta1) * 1e-3, rel=1e-2)


def test_gradients_beyond_fp16_are_skipped_and_halve_the_loss_scale(folder: Path) -> None:
    bank = Bank(loaded(folder, "fp16"), 1)
    train_state = joined(bank)
    train_step(bank, [train_state])
    before = train_state.slot.vector.data.clone()
    train_state.scaler.update(2.0**40)
    train_step(bank, [train_state])
    assert torch.equal(train_state.slot.vector.data, before)
    assert train_state.scaler.get_scale() == 2.0**39


@pytest.mark.parametrize("optim", ["adamw", "paged_adamw_8bit"])
def test_an_optimizer_has_the_settings_of_its_trial(folder: Path, optim: Optimizer) -> None:
    train = replace(TRAIN, optim=optim, adam_beta1=0.8, adam_beta2=0.95, adam_epsilon=1e-6, weight_decay=0.3)
    [group] = joined(Bank(loaded(folder), 1), train=train).optimizer.param_groups
    assert tuple(group["betas"]) == (0.8, 0.95)
    assert (group["eps"], group["weight_decay"]) == (1e-6, 0.3)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_next_pass_multiplies_with_what_the_step_has_changed(folder: Path, dtype: DType) -> None:
    bank = Bank(loaded(folder, dtype), 2)
    train_states = [joined(bank, n) for n in range(2)]
    before = [x.slot.vector.data.clone() for x in train_states]
    train_step(bank, train_states)
    for train_state, old in zip(train_states, before, strict=True):
        group = bank.group_of(train_state.slot)
        row = group.weights_kP[group.slots.index(train_state.slot)]
        assert not torch.equal(train_state.slot.vector.data, old)
        assert torch.equal(row, train_state.slot.vector.data.to(row.dtype))


def test_a_loaded_adapter_is_multiplied_with_at_once(folder: Path) -> None:
    bank = Bank(loaded(folder, "bf16"), 2)
    first, second = (joined(bank, n) for n in range(2))
    train_step(bank, [first])
    bank.load(second.slot, bank.adapter(first.slot))
    [group] = bank.groups
    assert torch.equal(group.weights_kP[0], group.weights_kP[1])


def test_a_fresh_adapter_is_drawn_as_peft_draws_it_from_its_own_seed(folder: Path) -> None:
    """PEFT draws A from kaiming_uniform with a = sqrt(5): evenly between -1 and 1 over the root of the width."""
    bank = Bank(loaded(folder), 3)
    one, other, again = (joined(bank, n).slot for n in (0, 1, 0))
    for path, (a_RD, b_RO) in one.tensors.items():
        assert 0.9 < float(a_RD.abs().max()) * math.sqrt(a_RD.shape[1]) <= 1
        assert not b_RO.any()
        assert torch.equal(a_RD, again.tensors[path][0]) and not torch.equal(a_RD, other.tensors[path][0])


def ranks(bank: Bank) -> list[list[int]]:
    return sorted([slot.own.rank for slot in group.slots] for group in bank.groups)


def joined_ranks(bank: Bank, *found: int) -> list[list[int]]:
    for number, r in enumerate(found):
        bank.add(number, LoraSpec(r=r, lora_alpha=8, target_modules=resolve_targets(bank.base.spec, "qv")), number)
    return ranks(bank)


def test_slots_are_stacked_as_operations_or_their_overhead_weigh_more(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(stack_plan.OVERHEAD, "cpu", 1)
    assert joined_ranks(Bank(loaded(folder), 3), 2, 4, 2) == [[2, 2], [4]]
    monkeypatch.setitem(stack_plan.OVERHEAD, "cpu", 1 << 60)
    assert joined_ranks(Bank(loaded(folder), 3), 2, 4, 2) == [[2, 2, 4]]


def test_no_slot_is_filled_up_beyond_four_times_its_size(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(stack_plan.OVERHEAD, "cpu", 1 << 60)
    monkeypatch.setattr(stack_plan, "SMALL", 0)
    assert joined_ranks(Bank(loaded(folder), 2), 2, 8) == [[2, 8]]
    assert joined_ranks(Bank(loaded(folder), 2), 2, 9) == [[2], [9]]


def test_the_reported_training_loss_is_the_mean_of_the_last_steps(folder: Path) -> None:
    train_state = joined(Bank(loaded(folder), 1))
    assert math.isnan(mean_loss(train_state))
    train_state.losses = [(step, float(step), 0.0) for step in range(1, 31)]
    assert mean_loss(train_state) == pytest.approx(25.5)


@pytest.mark.parametrize("kind", ["qwen2", "gpt2"])
def test_a_fresh_adapter_changes_no_linear_whatever_its_bias(tmp_path: Path, kind: str) -> None:
    base = loaded(save_base(tmp_path, kind))
    for name, parameter in base.model.named_parameters():
        if name.endswith("bias"):
            parameter.data.normal_(0, 0.5)
    ids_BS, places_T = torch.arange(4, 24).view(2, 10), (torch.tensor([0, 1]), torch.tensor([9, 9]))
    Bank(base, 0)  # removes other adapters
    with torch.no_grad():
        plain = base.label_logits(ids_BS, *places_T)
        bank = Bank(base, 1)
        targets = resolve_targets(base.spec, "all-linear")
        slot = bank.add(0, LoraSpec(r=4, lora_alpha=8, target_modules=targets), 0)
        with bank.rows([(slot, 2)]):
            adapted = base.label_logits(ids_BS, *places_T)
    torch.testing.assert_close(adapted, plain)
