"""A new adapter method needs one class and one entry in the table."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

import lorasweep
from lorasweep.adapters.bank import Bank
from lorasweep.adapters.load import load_base
from lorasweep.adapters.methods.lora import Lora, LoraSpec
from lorasweep.adapters.methods.method import Method
from lorasweep.adapters.methods.table import METHODS
from lorasweep.adapters.peft_format import load_adapter, save_adapter
from lorasweep.adapters.products import AdaptedRows
from lorasweep.adapters.slot import Slot
from lorasweep.adapters.train import train_step
from lorasweep.adapters.train_state import TrainState, make_train_state
from lorasweep.config.build import build_config
from lorasweep.core.errors import ConfigError
from lorasweep.core.spec import AdapterSpec, EvalSpec, ModelSpec, Precision, TrainSpec, TrialSpec
from lorasweep.core.trial import Trial
from lorasweep.driver.run_folder import run_folder
from lorasweep.memory import footprint, lengths_of
from lorasweep.models.info import resolve_targets
from lorasweep.planning.make import make_plan
from lorasweep.worker.checkpoint import load_checkpoint, save_checkpoint
from lorasweep.worker.live_trial import LiveTrial
from tests.memory.test_facts import kept_by
from tests.settings import SPEC, composed, minimal
from tests.test_bank import curve, join, make_bank, mixed, train_all, train_stock
from tests.tiny import save_base, token_rows

pytestmark = pytest.mark.slow

TRAIN = TrainSpec(learning_rate=2e-2, per_device_train_batch_size=3, max_steps=20, weight_decay=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleSpec(AdapterSpec):
    """Settings of the method below, which has no rank."""

    method: str = "scale"


class Scale(Method[ScaleSpec]):
    """IA3 on outputs (arXiv 2205.05638): y = base(x) (1 + d), with one vector d per linear, which starts at zero."""

    name = "scale"
    settings = ScaleSpec
    tensor_names = ("d",)
    peft_type = "IA3"
    peft_names = ("ia3_l",)
    num_operations = 4
    can_pad = False  # d = 0 has a gradient
    changes_base_output = True

    def shapes(self, inputs: int, outputs: int, rank: int) -> tuple[tuple[int, ...], ...]:
        return ((outputs,),)

    def num_kept(self, inputs: int, outputs: int, rank: int) -> int:
        return outputs

    def start(self, tensors: Sequence[Tensor], spec: ScaleSpec, base: nn.Module, generator: Generator) -> None:
        """Leave d at zero."""

    def forward(self, rows: AdaptedRows, y_NO: Tensor, x_kMD: Tensor) -> tuple[Tensor, ...]:
        base_kMO = rows.padded(y_NO).clone()
        rows.add(y_NO, base_kMO * rows.tensors[0][:, None])
        return (base_kMO,)

    def base_gradient(self, rows: AdaptedRows, gradient_NO: Tensor, kept: Sequence[Tensor]) -> None:
        rows.add(gradient_NO, rows.padded(gradient_NO) * rows.tensors[0][:, None])

    def backward(
        self, rows: AdaptedRows, gy_NO: Tensor, gx_ND: Tensor | None, x_kMD: Tensor, kept: Sequence[Tensor]
    ) -> None:
        rows.gradients[0].add_((rows.padded(gy_NO) * kept[0]).sum(dim=1))

    def peft_settings(self, spec: ScaleSpec) -> dict[str, object]:
        return {"feedforward_modules": []}

    def to_peft(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return (1 + tensors[0][:, None],)

    def from_peft(self, stored: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return (stored[0][:, 0] - 1,)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "scale", Scale())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("bases") / "qwen2", "qwen2")


def scale_spec(model: ModelSpec, preset: str = "qv") -> ScaleSpec:
    return ScaleSpec(target_modules=resolve_targets(model, preset))


def trials_of(model: ModelSpec) -> list[tuple[AdapterSpec, TrainSpec]]:
    """Return two trials of the new method between three of LoRA, with micro-batches of different lengths."""
    plain = [(lora, replace(train, max_steps=20)) for lora, train in mixed(model, num=3)]
    first = (scale_spec(model), TRAIN)
    second = (scale_spec(model, "all-linear"), replace(TRAIN, seed=1, gradient_accumulation_steps=2))
    return [plain[0], first, plain[1], second, plain[2]]


def diverge(bank: Bank, slot: Slot) -> None:
    slot.vector.data.fill_(math.nan)
    bank.group_of(slot).publish(slot)


@pytest.mark.parametrize("precision", ["none", "nf4"])
def test_it_has_stock_pefts_losses_among_lora_and_beside_neighbours_that_are_nan(
    folder: Path, tmp_path: Path, precision: Precision
) -> None:
    spec = ModelSpec(id=str(folder), precision=precision)
    bank, trials = make_bank(load_base(spec, "cpu"), 7), trials_of(spec)
    states = [join(bank, i, *trial) for i, trial in enumerate(trials)]
    for number in (1, 3):
        save_adapter(bank, states[number].slot, tmp_path / str(number))
    for number, trial in ((5, trials[0]), (6, trials[1])):
        states.append(join(bank, number, *trial))
        diverge(bank, states[-1].slot)
    train_all(bank, states)
    for number in (1, 3):
        reference = train_stock(stock(spec, tmp_path / str(number), is_trainable=True), trials[number][1])
        assert (curve(states[number]) - reference).abs().max() < 1e-5
        assert states[number].slot.vector.abs().max() > 0.05, "a trial that learns nothing would prove nothing"


def stock(spec: ModelSpec, folder: Path, *, is_trainable: bool = False) -> Any:
    """Load a saved adapter into stock PEFT."""
    from peft import PeftModel

    return PeftModel.from_pretrained(load_base(spec, "cpu").model, folder, is_trainable=is_trainable)


def test_lora_has_the_same_losses_beside_it(folder: Path) -> None:
    base = load_base(ModelSpec(id=str(folder)), "cpu")
    trials = trials_of(base.spec)
    curves = []
    for numbers in ((0, 2, 4), range(5)):
        bank = make_bank(base, 5)
        states = {i: join(bank, i, *trials[i]) for i in numbers}
        train_all(bank, list(states.values()))
        curves.append(torch.stack([curve(states[i]) for i in (0, 2, 4)]))
    assert (curves[0] - curves[1]).abs().max() < 1e-5


def test_what_is_saved_gives_the_same_logits_in_stock_peft_and_in_another_slot(folder: Path, tmp_path: Path) -> None:
    bank = make_bank(load_base(ModelSpec(id=str(folder)), "cpu"), 2)
    slot = bank.add(0, scale_spec(bank.base.spec), 0)
    slot.vector.data.normal_(0, 0.3)
    save_adapter(bank, slot, tmp_path)
    other = bank.add(1, slot.spec, 1)
    bank.load(other, load_adapter(tmp_path))
    expected = logits(bank, slot)
    torch.testing.assert_close(logits(bank, other), expected, atol=1e-5, rtol=0)
    ids = torch.arange(5, 17)[None]
    with torch.no_grad():
        found = stock(bank.base.spec, tmp_path)(input_ids=ids).logits[0]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def logits(bank: Bank, slot: Slot) -> Tensor:
    with torch.no_grad(), bank.rows([(slot, 1)]):
        return bank.base.label_logits(torch.arange(5, 17)[None], torch.zeros(12, dtype=torch.long), torch.arange(12))


def live_trial(folder: Path, out: Path) -> tuple[Bank, LiveTrial]:
    """Return a trial of the new method in a bank with one of LoRA."""
    model = ModelSpec(id=str(folder))
    spec: TrialSpec = replace(SPEC, model=model, lora=scale_spec(model), train=TRAIN)
    bank = make_bank(load_base(model, "cpu"), 2)
    join(bank, 1, *mixed(model)[0])
    state = make_train_state(bank.add(0, spec.lora, 0), TRAIN, token_rows(), EvalSpec(), "fp32")
    trial = Trial(number=0, params={}, spec=spec)
    return bank, LiveTrial(trial=trial, folder=str(out), train_state=state, started_s=0.0)


def test_a_checkpoint_continues_with_equal_losses(folder: Path, tmp_path: Path) -> None:
    bank, live = live_trial(folder, tmp_path)
    train_until(bank, live.train_state, 7)
    save_checkpoint(live)
    train_until(bank, live.train_state, 14)
    bank, again = live_trial(folder, tmp_path)
    assert load_checkpoint(again) == ""
    train_until(bank, again.train_state, 14)
    assert again.train_state.losses == live.train_state.losses


def train_until(bank: Bank, state: TrainState, step: int) -> None:
    while state.step < step:
        train_step(bank, [state])


def test_memory_is_predicted_from_its_own_numbers() -> None:
    model = ModelSpec(id="demo")
    plain = replace(SPEC, model=model, lora=replace(SPEC.lora, target_modules=resolve_targets(model, "qv")))
    scaled = replace(plain, lora=scale_spec(model))
    base = load_base(model, "cpu")
    outputs = sum(outputs for _, outputs in base.info.adapted(scaled.lora.target_modules).values())
    assert make_bank(base, 1).add(0, scaled.lora, 0).num_trainable == outputs
    rows = token_rows()
    assert footprint(base.info, [(scaled, lengths_of(rows, rows))]).adapters == 16 * outputs
    measured, predicted = kept_by([plain, scaled, scaled])
    assert predicted == pytest.approx(measured, rel=0.04)


def test_it_is_another_trial_than_lora_with_the_same_settings() -> None:
    lora = LoraSpec(r=1, lora_alpha=1, target_modules=("q_proj",))
    other = ScaleSpec(target_modules=("q_proj",))
    assert replace(SPEC, lora=lora).fingerprint != replace(SPEC, lora=other).fingerprint


def test_a_method_that_cannot_be_padded_is_stacked_with_equal_shapes_alone(folder: Path) -> None:
    bank = make_bank(load_base(ModelSpec(id=str(folder)), "cpu"), 4)
    for number, preset in enumerate(("qv", "all-linear", "qv", "mlp")):
        bank.add(number, scale_spec(bank.base.spec, preset), number)
    assert sorted(sorted(slot.number for slot in group.slots) for group in bank.groups) == [[0, 2], [1], [3]]


class Frozen(Lora):
    """LoRA whose B is set back to zero after each step."""

    def after_step(self, slot: Slot, step: int) -> None:
        for _, b_RO in slot.tensors.values():
            b_RO.zero_()


def test_a_method_may_change_its_slot_after_each_step(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "lora", Frozen())
    bank = make_bank(load_base(ModelSpec(id=str(folder), dtype="bf16"), "cpu"), 1)
    state = join(bank, 0, *mixed(bank.base.spec)[0])
    for _ in range(3):
        train_step(bank, [state])
    assert not any(b_RO.any() for _, b_RO in bank.group_of(state.slot).weights.values())


class FromWeights(Scale):
    """Starts at the mean of each row of the frozen weight."""

    def start(self, tensors: Sequence[Tensor], spec: ScaleSpec, base: nn.Module, generator: Generator) -> None:
        tensors[0].copy_(base.get_parameter("weight").mean(dim=1))


def test_a_method_may_start_from_the_weights_of_the_base(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bank = make_bank(load_base(ModelSpec(id=str(folder)), "cpu"), 2)
    path = "model.layers.1.self_attn.v_proj"
    expected = bank.base.model.get_parameter(f"{path}.weight").mean(dim=1)
    bank.add(0, scale_spec(bank.base.spec), 0)  # adapts the linear first
    monkeypatch.setitem(METHODS, "scale", FromWeights())
    slot = bank.add(1, scale_spec(bank.base.spec), 1)
    assert torch.equal(slot.tensors[path][0], expected)


@pytest.mark.filterwarnings("ignore:IA3")
def test_a_sweep_compares_it_with_lora(tmp_path: Path) -> None:
    words = {"lora.method": ["lora", "scale"], "lora.r": [2, 4], "train.max_steps": 3, "eval.rungs": 1, "workers": 1,
             "probes": "none", "tracking": "none", "study.keep_adapters": 3, "output_dir": tmp_path}  # fmt: skip
    board = lorasweep.sweep(words)
    assert sorted((row.result.spec.lora.method, *row.settings.values()) for row in board.rows) == [
        ("lora", "lora", 2), ("lora", "lora", 4), ("scale", "scale")
    ]  # fmt: skip
    assert {row.result.spec.lora.scale for row in board.rows} == {8, 4, None}
    assert "lora.method" in lorasweep.load_results(board.folder).to_frame()
    row = next(row for row in board.rows if row.result.spec.lora.method == "scale")
    model, _ = row.load()
    assert model.peft_config["default"].peft_type == "IA3"
    assert row.result.cost.trainable_parameters == sum(p.numel() for n, p in model.named_parameters() if "ia3" in n)


def test_a_setting_that_another_method_has_is_ignored_and_one_that_none_has_is_reported() -> None:
    config = build_config(minimal(lora={"method": "scale"}))
    assert config.lora == ScaleSpec(target_modules=("qv",))
    with pytest.raises(ConfigError, match=r"lora\.rank: no such setting; did you mean 'r'"):
        build_config(minimal(lora={"method": "scale", "rank": 8}))
    with pytest.raises(ConfigError, match=r"lora\.method: 'scal' is not one of .*; did you mean 'scale'\?"):
        build_config(minimal(lora={"method": "scal"}))


def test_each_method_has_its_own_run_folder() -> None:
    plans = [make_plan(composed(f"lora.method={name}")) for name in ("lora", "scale")]
    assert len({run_folder(plan) for plan in plans}) == 2


@pytest.mark.parametrize("value", [["lora"], {"a": 1}, 3])
def test_a_method_that_is_no_name_is_a_mistake(value: object) -> None:
    with pytest.raises(ConfigError, match=r"lora\.method: "):
        build_config(minimal(lora={"method": value}))
