"""Dropout equals that of stock PEFT: equal masks give equal losses, and no mask is used twice."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lorasweep.adapters import layout
from lorasweep.adapters.bank import Bank
from lorasweep.adapters.dropout import Noise, dropout_mask, noise_of
from lorasweep.adapters.linear import AdaptedLinear
from lorasweep.adapters.load import load_base
from lorasweep.adapters.methods.lora import LoraSpec
from lorasweep.adapters.slot import Slot
from lorasweep.adapters.train import train_step
from lorasweep.adapters.train_state import make_train_state
from lorasweep.core.spec import EvalSpec, ModelSpec, TrainSpec
from lorasweep.data.batches import MicroBatch, micro_batches
from lorasweep.models.base import Base
from lorasweep.models.info import resolve_targets
from tests.test_bank import peft_loss, peft_model
from tests.tiny import save_base, token_rows

RATE = 0.25
TRAIN = TrainSpec(learning_rate=1e-3, per_device_train_batch_size=3, max_steps=20, warmup_steps=0)
Masks = list[tuple[int, Tensor]]  # in the order in which they were drawn: index of the linear, mask of the pass


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    return ModelSpec(id=str(save_base(tmp_path_factory.mktemp("bases") / "llama", "llama")))


@pytest.fixture
def base(spec: ModelSpec) -> Base:
    return load_base(spec, "cpu")


def lora_of(base: Base, rate: float = RATE) -> LoraSpec:
    return LoraSpec(r=4, lora_alpha=16, lora_dropout=rate, target_modules=resolve_targets(base.spec, "all-linear"))


@contextmanager
def recorded() -> Iterator[Masks]:
    """Keep every mask that a bank draws inside."""
    found: Masks = []

    def keep(x_BSD: Tensor, noise: tuple[Noise, ...], index: int, *, is_flat: bool) -> Tensor:
        mask = dropout_mask(x_BSD, noise, index, is_flat=is_flat)
        found.append((index, mask.clone()))
        return mask

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "dropout_mask", keep)
        yield found


def trained(base: Base, steps: int) -> tuple[list[float], dict[str, Tensor], Masks]:
    """Train a trial alone; return its losses, its adapter before the first step, and its masks."""
    bank = Bank(base, 1)
    train_state = make_train_state(bank.add(0, lora_of(base), 0), TRAIN, token_rows(), EvalSpec(), "fp32")
    start = bank.adapter(train_state.slot)
    with recorded() as masks:
        losses = [train_step(bank, [train_state])[0] for _ in range(steps)]
    return losses, start, masks


class GivenDropout(nn.Module):
    """`nn.Dropout` with given masks: zero where they are zero, elsewhere times 1 / (1 - p)."""

    def __init__(self, masks: list[Tensor]) -> None:
        super().__init__()
        self.masks = iter(masks)

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(next(self.masks) == 0, 0.0, x / (1 - RATE))


def stock_losses(model: Any, batches: list[MicroBatch]) -> list[float]:
    """Train in a plain PyTorch loop, one row at a time."""
    params = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(params, lr=TRAIN.learning_rate, weight_decay=TRAIN.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / TRAIN.max_steps)
    losses = []
    for batch in batches:
        loss = torch.stack([peft_loss(model, [row]) for row in batch.rows]).sum() / batch.num_labels
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(params, TRAIN.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def test_under_the_same_masks_losses_are_those_of_stock_peft(base: Base, spec: ModelSpec) -> None:
    losses, start, masks = trained(base, TRAIN.max_steps)
    stream = micro_batches(token_rows(), batch_size=3, accumulation=1, seed=TRAIN.seed)
    batches = [next(stream) for _ in losses]
    model = peft_model(load_base(spec, "cpu"), start, lora_of(base))
    for index, path in enumerate(base.info.linears):
        own = [mask[0] for i, mask in masks if i == index]
        sizes = [[len(row.ids) for row in batch.rows] for batch in batches]
        rows = [part for mask, size in zip(own, sizes, strict=True) for part in torch.split(mask, size)]
        model.base_model.model.get_submodule(path).lora_dropout["default"] = GivenDropout(rows)
    assert losses == pytest.approx(stock_losses(model, batches), abs=1e-5)


def test_every_step_and_every_linear_has_a_mask_of_its_own(base: Base) -> None:
    _, _, masks = trained(base, 4)
    patterns = [mask[0, :6, :64].flatten().bool() for _, mask in masks]  # of the first tokens, which all passes have
    assert len({tuple(pattern.tolist()) for pattern in patterns}) == len(masks) == 4 * len(base.info.linears)
    pairs = [(patterns[i] == patterns[j]).float().mean() for i in range(len(masks)) for j in range(i)]
    assert max(pairs) < 0.8  # independent masks agree at (1 - p)^2 + p^2 = 0.625 of 384 places


def noise(slot: Slot, step: int) -> tuple[Noise, ...]:
    batch = MicroBatch(rows=token_rows()[:1], num_labels=1, is_last=True)
    return noise_of([(slot, 1)], [batch], [step], is_flat=False)


def test_the_mean_over_masks_is_the_output_without_dropout(base: Base) -> None:
    bank = Bank(base, 1)
    slot = bank.add(0, lora_of(base), 0)
    for _, b_RO in slot.tensors.values():
        b_RO.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
    linear = next(module for module in base.model.modules() if isinstance(module, AdaptedLinear))
    x_BSD = torch.randn(1, len(token_rows()[0].ids), 64, generator=torch.Generator().manual_seed(1))

    def output(noise: tuple[Noise, ...] = ()) -> Tensor:
        with torch.no_grad(), bank.rows([(slot, 1)], noise):
            return torch.as_tensor(linear(x_BSD))

    plain, drawn = output(), torch.stack([output(noise(slot, step)) for step in range(400)])
    error = drawn.std(dim=0) / 20  # standard error of a mean of 400
    assert ((drawn.mean(dim=0) - plain).abs() < 5 * error).all()
    assert (drawn[0] - plain).abs().max() > 0.1


def test_a_mask_drops_its_share_and_scales_the_rest(base: Base) -> None:
    slot = Bank(base, 1).add(0, lora_of(base), 0)
    mask = dropout_mask(torch.zeros(1, len(token_rows()[0].ids), 4096), noise(slot, 0), 0, is_flat=False)
    assert torch.unique(mask).tolist() == pytest.approx([0, 1 / (1 - RATE)])
    assert float((mask == 0).float().mean()) == pytest.approx(RATE, abs=0.01)


def test_trials_of_unequal_seed_have_unequal_masks(base: Base) -> None:
    bank = Bank(base, 2)
    x_BSD = torch.zeros(1, len(token_rows()[0].ids), 64)
    first, second = (dropout_mask(x_BSD, noise(bank.add(n, lora_of(base), n), 0), 0, is_flat=False) for n in range(2))
    assert float((first == second).float().mean()) < 0.8


def test_a_neighbour_without_dropout_keeps_all_its_inputs(base: Base) -> None:
    bank = Bank(base, 2)
    slots = [bank.add(0, lora_of(base), 0), bank.add(1, replace(lora_of(base), lora_dropout=0.0), 1)]
    train_states = [make_train_state(slot, TRAIN, token_rows(), EvalSpec(), "fp32") for slot in slots]
    sizes = {x.slot: x.loader.part(10**6).num_tokens for x in train_states}
    with recorded() as masks:
        train_step(bank, train_states)
    kept = [(mask == 1).all(dim=-1).sum() for _, mask in masks]
    assert {int(count) for count in kept} == {sizes[slots[1]]}


@pytest.mark.parametrize("max_tokens", [1, 20, 40], ids=["a row", "a row or two", "some rows"])
@pytest.mark.parametrize("is_flat", [True, False])
def test_a_micro_batch_in_parts_has_the_masks_of_the_whole(base: Base, is_flat: bool, max_tokens: int) -> None:
    base.shortcuts = replace(base.shortcuts, is_flat=is_flat)

    def losses(tokens: int) -> list[float]:
        bank = Bank(base, 1)
        bank.max_tokens = tokens
        train = replace(TRAIN, per_device_train_batch_size=6)
        train_state = make_train_state(bank.add(0, lora_of(base), 0), train, token_rows(), EvalSpec(), "fp32")
        while train_state.step < 4:
            train_step(bank, [train_state])
        return [loss for _, loss, _ in train_state.losses]

    assert losses(max_tokens) == pytest.approx(losses(10**6), abs=1e-5)
