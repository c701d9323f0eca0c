"""A packed trial must equal the trial that stock PEFT trains alone."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from lorasweep.adapters import stack_plan
from lorasweep.adapters.bank import Bank
from lorasweep.adapters.load import load_base
from lorasweep.adapters.methods.lora import LoraSpec
from lorasweep.adapters.train import train_step
from lorasweep.adapters.train_state import TrainState, make_train_state, usual_tokens
from lorasweep.core.spec import AdapterSpec, EvalSpec, ModelSpec, Precision, TrainSpec
from lorasweep.data.batches import micro_batches
from lorasweep.data.render import TokenRow
from lorasweep.models.base import Base
from lorasweep.models.info import resolve_targets
from tests.tiny import ARCHITECTURES, save_base, token_rows

STEPS = 100
SLOTS = 16


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder per architecture."""
    root = tmp_path_factory.mktemp("bases")
    return {kind: save_base(root / kind, kind) for kind in ARCHITECTURES}


def mixed(model: ModelSpec, dropout: float = 0.0, num: int = SLOTS) -> list[tuple[LoraSpec, TrainSpec]]:
    """Trials that differ in every setting that may differ within a bank, each in a cycle of different length."""
    schedules = ("linear", "cosine", "constant", "constant_with_warmup", "polynomial")
    presets = ("qv", "attention", "all-linear", "mlp")
    trials = []
    for i in range(num):
        lora = LoraSpec(
            r=(2, 4, 8, 3, 16)[i % 5],
            lora_alpha=(8, 16, 8, 32)[i % 4],
            lora_dropout=dropout * (1 + i % 3) / 2,
            use_rslora=i % 7 == 6,
            target_modules=resolve_targets(model, presets[i % 4]),
        )
        train = TrainSpec(
            learning_rate=(1e-3, 5e-4, 2.5e-4)[i % 3],
            per_device_train_batch_size=(4, 2, 3, 1)[i % 4],
            gradient_accumulation_steps=(1, 2, 1, 1, 3)[i % 5],
            max_steps=(30, STEPS, 25, 40)[(i + i // 4) % 4],
            weight_decay=(0.0, 0.1, 0.01)[i % 3],
            lr_scheduler_type=schedules[i % 5],  # type: ignore[arg-type]
            warmup_steps=(0.1, 0.0, 5)[i % 3],
            seed=i,
        )
        trials.append((lora, train))
    return trials


def make_bank(base: Base, num_slots: int) -> Bank:
    return Bank(base, num_slots)


def join(bank: Bank, number: int, lora: AdapterSpec, train: TrainSpec) -> TrainState:
    slot = bank.add(number, lora, train.seed, usual_tokens(token_rows(), train))
    return make_train_state(slot, train, token_rows(), EvalSpec(), bank.base.spec.dtype)


def train_all(bank: Bank, train_states: list[TrainState]) -> None:
    while train_states := [x for x in train_states if not x.is_done]:
        train_step(bank, train_states)


def curve(train_state: TrainState) -> torch.Tensor:
    return torch.tensor([loss for _, loss, _ in train_state.losses])


def alone(base: Base, lora: LoraSpec, train: TrainSpec) -> torch.Tensor:
    bank = make_bank(base, 1)
    train_state = join(bank, 0, lora, train)
    train_all(bank, [train_state])
    return curve(train_state)


def stock_peft(spec: ModelSpec, start: dict[str, torch.Tensor], lora: LoraSpec, train: TrainSpec) -> torch.Tensor:
    """The losses of stock PEFT, from the same initial adapter on the same batches."""
    return train_stock(peft_model(load_base(spec, "cpu"), start, lora), train)


def train_stock(model: Any, train: TrainSpec) -> torch.Tensor:
    """Train a PEFT model in a plain PyTorch loop and return its losses."""
    from transformers.optimization import get_scheduler

    params = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(params, lr=train.learning_rate, weight_decay=train.weight_decay)
    steps = train.max_steps
    schedule = get_scheduler(train.lr_scheduler_type, optimizer, train.num_warmup_steps(steps), steps)
    losses, partial = [], 0.0
    for batch in micro_batches(
        token_rows(),
        batch_size=train.per_device_train_batch_size,
        accumulation=train.gradient_accumulation_steps,
        seed=train.seed,
    ):
        loss = peft_loss(model, batch.rows) / batch.num_labels
        loss.backward()  # type: ignore[no-untyped-call]
        partial += loss.item()
        if batch.is_last:
            torch.nn.utils.clip_grad_norm_(params, train.max_grad_norm)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(partial)
            partial = 0.0
        if len(losses) == steps:
            return torch.tensor(losses)
    raise AssertionError("batches ended")


def peft_model(base: Base, start: dict[str, torch.Tensor], lora: LoraSpec) -> Any:
    """Wrap a base in stock PEFT, with this initial adapter."""
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

    config = LoraConfig(
        r=lora.r,
        lora_alpha=int(lora.lora_alpha),
        use_rslora=lora.use_rslora,
        target_modules=list(lora.target_modules),
        fan_in_fan_out=base.info.model_type == "gpt2",
    )
    model: Any = get_peft_model(base.model, config)
    set_peft_model_state_dict(model, start)
    return model


def collate(rows: Sequence[TokenRow]) -> dict[str, torch.Tensor]:
    """Pad rows on the right; prompt and padding carry no label."""
    width = max(len(r.ids) for r in rows)
    labels = [[t if on else -100 for t, on in zip(r.ids, r.is_label, strict=True)] for r in rows]
    return {
        "input_ids": torch.tensor([[*r.ids, *[0] * (width - len(r.ids))] for r in rows]),
        "attention_mask": torch.tensor([[1] * len(r.ids) + [0] * (width - len(r.ids)) for r in rows]),
        "labels": torch.tensor([x + [-100] * (width - len(x)) for x in labels]),
    }


def peft_loss(model: Any, rows: Sequence[TokenRow]) -> torch.Tensor:
    """Summed completion loss, with every logit computed as transformers computes it."""
    batch = collate(rows)
    labels = batch.pop("labels")
    logits = model(**batch).logits[:, :-1].flatten(0, 1)
    return torch.nn.functional.cross_entropy(
        logits.float(), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum"
    )


def assert_as_stock_peft(spec: ModelSpec, num: int, tolerance: float = 1e-5) -> None:
    """Train trials packed and each alone in stock PEFT, and compare every loss."""
    bank = make_bank(load_base(spec, "cpu"), num)
    trials = mixed(spec, num=num)
    train_states = [join(bank, i, *trial) for i, trial in enumerate(trials)]
    starts = [bank.adapter(x.slot) for x in train_states]
    train_all(bank, train_states)
    for train_state, start, trial in zip(train_states, starts, trials, strict=True):
        reference = stock_peft(spec, start, *trial)
        assert (curve(train_state) - reference).abs().max() < tolerance, trial
        moved = max(float(b_RO.abs().max()) for _, b_RO in train_state.slot.tensors.values())
        assert moved > 1e-3, "a trial that learns nothing would prove nothing"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_packed_trials_have_the_losses_of_stock_peft(bases: dict[str, Path], kind: str) -> None:
    assert_as_stock_peft(ModelSpec(id=str(bases[kind])), SLOTS if kind == "llama" else 8)


@pytest.mark.slow
@pytest.mark.parametrize("overhead", [0, 1 << 60], ids=["every shape by itself", "all in one stack"])
def test_however_slots_are_stacked_losses_are_those_of_stock_peft(
    bases: dict[str, Path], overhead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(stack_plan.OVERHEAD, "cpu", overhead)
    assert_as_stock_peft(ModelSpec(id=str(bases["llama"])), 6)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["int8", "nf4", "nf4_double", "fp4"])
def test_packed_trials_on_a_quantised_base_have_the_losses_of_stock_peft(
    bases: dict[str, Path], precision: Precision
) -> None:
    # An int8 layer rounds its input row by row, and the last bit may be rounded differently.
    tolerance = 2e-3 if precision == "int8" else 1e-5
    num = SLOTS if precision == "nf4" else 4
    assert_as_stock_peft(ModelSpec(id=str(bases["llama"]), precision=precision), num, tolerance)


@pytest.mark.slow
def test_a_trial_with_dropout_is_the_same_packed_and_alone(bases: dict[str, Path]) -> None:
    spec = ModelSpec(id=str(bases["llama"]))
    base = load_base(spec, "cpu")
    trials = mixed(spec, dropout=0.2, num=6)
    bank = make_bank(base, 6)
    train_states = [join(bank, i, *trial) for i, trial in enumerate(trials)]
    train_all(bank, train_states)
    for train_state, trial in zip(train_states, trials, strict=True):
        assert (curve(train_state) - alone(base, *trial)).abs().max() < 1e-5


@pytest.mark.slow
def test_a_trial_has_the_losses_of_the_hugging_face_trainer(bases: dict[str, Path], tmp_path: Path) -> None:
    spec = ModelSpec(id=str(bases["llama"]))
    trials = mixed(spec, num=4)
    bank = make_bank(load_base(spec, "cpu"), 4)
    train_states = [join(bank, i, *trial) for i, trial in enumerate(trials)]
    starts = [bank.adapter(x.slot) for x in train_states]
    train_all(bank, train_states)
    reference = hugging_face_trainer(spec, starts[1], *trials[1], folder=tmp_path)
    assert (curve(train_states[1]) - reference).abs().max() < 1e-5


def hugging_face_trainer(
    spec: ModelSpec, start: dict[str, torch.Tensor], lora: LoraSpec, train: TrainSpec, folder: Path
) -> torch.Tensor:
    """The losses of transformers' Trainer on the same rows in the same order."""
    from transformers import Trainer, TrainingArguments

    batch, accumulation = train.per_device_train_batch_size, train.gradient_accumulation_steps
    stream = micro_batches(token_rows(), batch_size=batch, accumulation=accumulation, seed=train.seed)
    rows = [row for micro in islice(stream, train.max_steps * accumulation) for row in micro.rows]
    arguments = TrainingArguments(
        str(folder),
        learning_rate=train.learning_rate,
        weight_decay=train.weight_decay,
        max_steps=train.max_steps,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        lr_scheduler_type=train.lr_scheduler_type,
        warmup_steps=train.warmup_steps,
        train_sampling_strategy="sequential",
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    losses: list[float] = []

    class Recording(Trainer):
        """Keeps each micro-batch's share of the loss; the log rounds to four digits."""

        def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            loss = super().training_step(*args, **kwargs)
            losses.append(float(loss))
            return loss

    model = peft_model(load_base(spec, "cpu"), start, lora)
    Recording(model=model, args=arguments, train_dataset=rows, data_collator=collate).train()
    return torch.tensor(losses).view(-1, accumulation).sum(dim=1)


def test_dropout_changes_the_losses(bases: dict[str, Path]) -> None:
    base = load_base(ModelSpec(id=str(bases["llama"])), "cpu")
    with_dropout = alone(base, *mixed(base.spec, dropout=0.2)[0])
    without = alone(base, *mixed(base.spec)[0])
    assert (with_dropout - without).abs().max() > 1e-3


def test_activation_checkpointing_changes_nothing(bases: dict[str, Path]) -> None:
    base = load_base(ModelSpec(id=str(bases["llama"])), "cpu")
    trial = mixed(base.spec, dropout=0.2)[2]
    plain = alone(base, *trial)
    base.model.activation_checkpointing_enable()  # type: ignore[operator]
    base.model.train()
    assert torch.equal(plain, alone(base, *trial))


@pytest.mark.slow
def test_a_slot_that_leaves_and_is_refilled_does_not_touch_its_neighbours(bases: dict[str, Path]) -> None:
    base = load_base(ModelSpec(id=str(bases["llama"])), "cpu")
    trials = mixed(base.spec)
    bank = make_bank(base, 3)
    # The largest trial is removed, so that the layout of the others changes during training.
    third, second, first = (join(bank, i, *trials[i]) for i in range(3))
    for _ in range(7):
        train_step(bank, [first, second, third])
    bank.remove(first.slot)
    for _ in range(5):
        train_step(bank, [third, second])
    newcomer = join(bank, 3, *trials[3])
    train_all(bank, [third, second, newcomer])
    for train_state, i in ((second, 1), (third, 0), (newcomer, 3)):
        assert (curve(train_state) - alone(base, *trials[i])).abs().max() < 1e-5


def test_a_diverged_neighbour_stays_alone_with_its_nan(bases: dict[str, Path]) -> None:
    base = load_base(ModelSpec(id=str(bases["llama"])), "cpu")
    trials = mixed(base.spec)
    bank = make_bank(base, 2)
    good, bad = (join(bank, i, *trials[i]) for i in range(2))
    bad.slot.vector.data.fill_(math.nan)
    bank.group_of(bad.slot).publish(bad.slot)
    for _ in range(trials[0][1].max_steps):
        train_step(bank, [good, bad])
    assert math.isnan(bad.loss)
    assert (curve(good) - alone(base, *trials[0])).abs().max() < 1e-5


@pytest.mark.slow
def test_what_a_slot_does_not_use_stays_exactly_zero(bases: dict[str, Path]) -> None:
    base = load_base(ModelSpec(id=str(bases["llama"])), "cpu")
    bank = make_bank(base, 4)
    train_states = [join(bank, i, *trial) for i, trial in enumerate(mixed(base.spec, num=4))]
    train_all(bank, train_states)
    (group,) = bank.groups
    used = torch.zeros_like(group.weights_kP, dtype=torch.bool)
    for index, slot in enumerate(group.slots):
        for matrices in slot.views(used[index]).values():
            for matrix in matrices:
                matrix.fill_(True)
    assert group.weights_kP[used].count_nonzero() == used.sum() == sum(x.slot.num_trainable for x in train_states)
    assert not group.weights_kP[~used].any()


@pytest.mark.slow
def test_an_evaluation_pass_leaves_4_bit_gradients_alone(bases: dict[str, Path]) -> None:
    """bitsandbytes repacks 4-bit weights in a no-grad pass on some hosts, and then loses the input gradient."""
    spec = ModelSpec(id=str(bases["llama"]), precision="nf4")
    base = load_base(spec, "cpu")
    before = alone(base, *mixed(spec)[2])
    base.model.eval()
    with torch.no_grad():
        base.label_logits(torch.randint(4, 90, (2, 8)), torch.tensor([0]), torch.tensor([3]))
    assert torch.equal(before, alone(base, *mixed(spec)[2]))


@pytest.mark.slow
def test_packing_slots_in_bf16_follows_the_trial_alone(bases: dict[str, Path]) -> None:
    base = load_base(ModelSpec(id=str(bases["llama"]), dtype="bf16"), "cpu")
    trials = mixed(base.spec, num=4)
    bank = make_bank(base, 4)
    train_states = [join(bank, i, *trial) for i, trial in enumerate(trials)]
    train_all(bank, train_states)
    for train_state, trial in zip(train_states, trials, strict=True):
        assert (curve(train_state) - alone(base, *trial)).abs().max() < 0.05


@pytest.mark.slow
def test_paged_adamw_8bit_and_fp16_train(bases: dict[str, Path]) -> None:
    for dtype, optim in (("fp32", "paged_adamw_8bit"), ("fp16", "adamw")):
        base = load_base(ModelSpec(id=str(bases["llama"]), dtype=dtype), "cpu")  # type: ignore[arg-type]
        lora, train = mixed(base.spec)[2]
        losses = alone(base, lora, replace(train, optim=optim, learning_rate=1e-2))  # type: ignore[arg-type]
        assert losses[-10:].mean() < losses[:10].mean() - 1
