"""A packed trial must be the trial that stock PEFT would have trained alone."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lorasweep.bank import Bank
from lorasweep.data.batches import micro_batches
from lorasweep.data.render import TokenRow
from lorasweep.model import Base, load_base, resolve_targets
from lorasweep.spec import LoraSpec, ModelSpec, Precision, TrainSpec
from lorasweep.train import Learner, make_learner, train_step
from tests.tiny import ARCHITECTURES, save_base, token_rows

STEPS = 25


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder per architecture."""
    root = tmp_path_factory.mktemp("bases")
    return {kind: save_base(root / kind, kind) for kind in ARCHITECTURES}


def mixed(model: ModelSpec, dropout: float = 0.0) -> list[tuple[LoraSpec, TrainSpec]]:
    """Four trials that differ in everything that may differ inside a bank."""
    knobs: list[tuple[int, float, str, float, int, int, float, str]] = [
        (2, 8, "qv", 1e-2, 4, 1, 0.0, "linear"),
        (4, 16, "attention", 3e-3, 2, 2, 0.1, "cosine"),
        (8, 8, "all-linear", 1e-3, 3, 1, 0.01, "constant"),
        (3, 32, "mlp", 5e-3, 4, 3, 0.0, "linear"),
    ]
    return [
        (
            LoraSpec(r=r, lora_alpha=a, lora_dropout=dropout, target_modules=resolve_targets(model, targets)),
            TrainSpec(
                learning_rate=lr,
                per_device_train_batch_size=batch,
                gradient_accumulation_steps=accumulation,
                max_steps=STEPS,
                weight_decay=decay,
                lr_scheduler_type=schedule,  # type: ignore[arg-type]
                warmup_steps=0.1,
                seed=i,
            ),
        )
        for i, (r, a, targets, lr, batch, accumulation, decay, schedule) in enumerate(knobs)
    ]


def make_bank(base: Base, num_slots: int) -> Bank:
    return Bank(base, num_slots, 8, resolve_targets(base.spec, "all-linear"))


def join(bank: Bank, number: int, lora: LoraSpec, train: TrainSpec) -> Learner:
    slot = bank.add(number, lora, train.seed)
    return make_learner(slot, train, token_rows(), 3, bank.base.spec.dtype)


def train_all(bank: Bank, learners: list[Learner]) -> None:
    while learners := [x for x in learners if not x.is_done]:
        train_step(bank, learners)


def curve(learner: Learner) -> torch.Tensor:
    return torch.tensor([loss for _, loss, _ in learner.losses])


def alone(base: Base, lora: LoraSpec, train: TrainSpec) -> torch.Tensor:
    bank = make_bank(base, 1)
    learner = join(bank, 0, lora, train)
    train_all(bank, [learner])
    return curve(learner)


def stock_peft(spec: ModelSpec, start: dict[str, torch.Tensor], lora: LoraSpec, train: TrainSpec) -> torch.Tensor:
    """The losses of stock PEFT and a plain PyTorch loop, from the same initial adapter on the same batches."""
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
    from transformers.optimization import get_scheduler

    base = load_base(spec, "cpu")
    config = LoraConfig(
        r=lora.r,
        lora_alpha=int(lora.lora_alpha),
        target_modules=list(lora.target_modules),
        fan_in_fan_out=base.info.model_type == "gpt2",
    )
    model: Any = get_peft_model(base.model, config)
    set_peft_model_state_dict(model, start)
    params = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(params, lr=train.learning_rate, weight_decay=train.weight_decay)
    schedule = get_scheduler(train.lr_scheduler_type, optimizer, train.num_warmup_steps(STEPS), STEPS)
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
        if len(losses) == STEPS:
            return torch.tensor(losses)
    raise AssertionError("batches ended")


def peft_loss(model: Any, rows: tuple[TokenRow, ...]) -> torch.Tensor:
    """Summed completion loss, with every logit computed as transformers computes it."""
    width = max(len(r.ids) for r in rows)
    ids = torch.tensor([[*r.ids, *[0] * (width - len(r.ids))] for r in rows])
    mask = torch.tensor([[1] * len(r.ids) + [0] * (width - len(r.ids)) for r in rows])
    labels = torch.full_like(ids, -100)
    for i, row in enumerate(rows):
        for j, is_label in enumerate(row.is_label):
            if is_label:
                labels[i, j] = row.ids[j]
    logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1].flatten(0, 1)
    return torch.nn.functional.cross_entropy(
        logits.float(), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum"
    )


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_packed_trials_have_the_losses_of_stock_peft(bases: dict[str, Path], kind: str) -> None:
    spec = ModelSpec(id=str(bases[kind]))
    bank = make_bank(load_base(spec, "cpu"), 4)
    trials = mixed(spec)
    learners = [join(bank, i, *trial) for i, trial in enumerate(trials)]
    starts = [bank.adapter(x.slot) for x in learners]
    train_all(bank, learners)
    for learner, start, trial in zip(learners, starts, trials, strict=True):
        reference = stock_peft(spec, start, *trial)
        assert (curve(learner) - reference).abs().max() < 1e-5
        assert reference[0] - reference[-1] != 0


@pytest.mark.parametrize("precision", ["int8", "nf4", "nf4_double", "fp4"])
def test_packed_trials_on_a_quantised_base_have_the_losses_of_stock_peft(
    bases: dict[str, Path], precision: Precision
) -> None:
    spec = ModelSpec(id=str(bases["llama"]), precision=precision)
    bank = make_bank(load_base(spec, "cpu"), 4)
    trials = mixed(spec)
    learners = [join(bank, i, *trial) for i, trial in enumerate(trials)]
    starts = [bank.adapter(x.slot) for x in learners]
    train_all(bank, learners)
    # An int8 layer rounds its input row by row, and a last bit may fall to the other side.
    tolerance = 2e-3 if precision == "int8" else 1e-5
    for learner, start, trial in zip(learners, starts, trials, strict=True):
        assert (curve(learner) - stock_peft(spec, start, *trial)).abs().max() < tolerance


def test_a_trial_with_dropout_is_the_same_packed_and_alone(bases: dict[str, Path]) -> None:
    spec = ModelSpec(id=str(bases["llama"]))
    base = load_base(spec, "cpu")
    trials = mixed(spec, dropout=0.2)
    bank = make_bank(base, 4)
    learners = [join(bank, i, *trial) for i, trial in enumerate(trials)]
    train_all(bank, learners)
    for learner, trial in zip(learners, trials, strict=True):
        assert (curve(learner) - alone(base, *trial)).abs().max() < 1e-5


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


def test_a_slot_that_leaves_and_is_refilled_does_not_touch_its_neighbours(bases: dict[str, Path]) -> None:
    base = load_base(ModelSpec(id=str(bases["llama"])), "cpu")
    trials = mixed(base.spec)
    bank = make_bank(base, 3)
    first, second, third = (join(bank, i, *trials[i]) for i in range(3))
    for _ in range(7):
        train_step(bank, [first, second, third])
    bank.remove(first.slot)
    for _ in range(5):
        train_step(bank, [third, second])
    newcomer = join(bank, 3, *trials[3])
    train_all(bank, [third, second, newcomer])
    for learner, i in ((second, 1), (third, 2), (newcomer, 3)):
        assert (curve(learner) - alone(base, *trials[i])).abs().max() < 1e-5


def test_a_diverged_neighbour_stays_alone_with_its_nan(bases: dict[str, Path]) -> None:
    base = load_base(ModelSpec(id=str(bases["llama"])), "cpu")
    trials = mixed(base.spec)
    bank = make_bank(base, 2)
    good, bad = (join(bank, i, *trials[i]) for i in range(2))
    bad.slot.tensors[0].data.fill_(math.nan)
    for _ in range(STEPS):
        train_step(bank, [good, bad])
    assert math.isnan(bad.loss)
    assert (curve(good) - alone(base, *trials[0])).abs().max() < 1e-5


def test_what_a_slot_does_not_use_stays_exactly_zero(bases: dict[str, Path]) -> None:
    base = load_base(ModelSpec(id=str(bases["llama"])), "cpu")
    bank = make_bank(base, 4)
    learners = [join(bank, i, *trial) for i, trial in enumerate(mixed(base.spec))]
    train_all(bank, learners)
    for path, linear in bank.linears.items():
        for x in learners:
            rank = x.slot.spec.r if path in x.slot.parameters else 0
            assert not linear.a_KRD[x.slot.index, rank:].any()
            assert not linear.b_KRO[x.slot.index, rank:].any()


def test_an_evaluation_pass_leaves_4_bit_gradients_alone(bases: dict[str, Path]) -> None:
    """bitsandbytes repacks 4-bit weights in a no-grad pass on some hosts, and then loses the input gradient."""
    spec = ModelSpec(id=str(bases["llama"]), precision="nf4")
    base = load_base(spec, "cpu")
    before = alone(base, *mixed(spec)[2])
    base.model.eval()
    with torch.no_grad():
        base.label_logits(torch.randint(4, 90, (2, 8)), torch.tensor([0]), torch.tensor([3]))
    assert torch.equal(before, alone(base, *mixed(spec)[2]))


def test_packing_slots_in_bf16_follows_the_trial_alone(bases: dict[str, Path]) -> None:
    base = load_base(ModelSpec(id=str(bases["llama"]), dtype="bf16"), "cpu")
    trials = mixed(base.spec)
    bank = make_bank(base, 4)
    learners = [join(bank, i, *trial) for i, trial in enumerate(trials)]
    train_all(bank, learners)
    for learner, trial in zip(learners, trials, strict=True):
        assert (curve(learner) - alone(base, *trial)).abs().max() < 0.05


def test_paged_adamw_8bit_and_fp16_train(bases: dict[str, Path]) -> None:
    for dtype, optim in (("fp32", "paged_adamw_8bit"), ("fp16", "adamw")):
        base = load_base(ModelSpec(id=str(bases["llama"]), dtype=dtype), "cpu")  # type: ignore[arg-type]
        lora, train = mixed(base.spec)[0]
        losses = alone(base, lora, replace(train, optim=optim))  # type: ignore[arg-type]
        assert losses[-5:].mean() < losses[:5].mean()
