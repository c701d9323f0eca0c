"""A checkpoint has all of a trial's state: training state and reports."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lorasweep.adapters.bank import Bank
from lorasweep.adapters.load import load_base
from lorasweep.adapters.methods.lora import LoraSpec
from lorasweep.adapters.train import train_step
from lorasweep.adapters.train_state import make_train_state
from lorasweep.core.spec import DType, EvalSpec, ModelSpec, TrialSpec
from lorasweep.core.trial import Trial
from lorasweep.models.info import resolve_targets
from lorasweep.worker.checkpoint import load_checkpoint, save_checkpoint
from lorasweep.worker.live_trial import LiveTrial
from tests.settings import SPEC
from tests.tiny import save_base, token_rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("bases") / "llama", "llama")


def live_trial(base_folder: Path, folder: Path, dtype: DType = "fp32") -> tuple[Bank, LiveTrial]:
    """Return a new trial in its own bank."""
    model = ModelSpec(id=str(base_folder), dtype=dtype)
    train = replace(SPEC.train, gradient_accumulation_steps=2, max_steps=20, lr_scheduler_type="cosine")
    lora = LoraSpec(r=4, lora_alpha=8, target_modules=resolve_targets(model, "qv"))
    spec: TrialSpec = replace(SPEC, model=model, lora=lora, train=train)
    bank = Bank(load_base(model, "cpu"), 1)
    train_state = make_train_state(bank.add(0, lora, 0), train, token_rows(), EvalSpec(), dtype)
    one = Trial(number=0, params={}, spec=spec)
    return bank, LiveTrial(trial=one, folder=str(folder), train_state=train_state, started_s=5.0)


def test_all_that_is_counted_and_reported_comes_back(folder: Path, tmp_path: Path) -> None:
    bank, live = live_trial(folder, tmp_path)
    while live.train_state.step < 3:
        train_step(bank, [live.train_state])
    live.record({"accuracy": 0.5, "loss": 1.0}, peak_bytes=1)
    live.rung, live.shared_by, live.before_s = 1, 6, 100.0
    save_checkpoint(live)
    _, again = live_trial(folder, tmp_path)
    assert load_checkpoint(again) == ""
    for name in ("rung", "shared_by", "metrics", "history", "started_s"):
        assert getattr(again, name) == getattr(live, name), name
    for name in ("step", "micro_step", "loss", "losses", "num_tokens", "train_s"):
        assert getattr(again.train_state, name) == getattr(live.train_state, name), name
    assert 100 < again.before_s < again.wall_s
    assert again.train_state.schedule.get_last_lr() == live.train_state.schedule.get_last_lr()
    assert again.train_state.optimizer.param_groups[0]["lr"] == live.train_state.optimizer.param_groups[0]["lr"]


def test_a_step_that_was_begun_is_done_again_from_its_first_micro_batch(folder: Path, tmp_path: Path) -> None:
    bank, live = live_trial(folder, tmp_path)
    for _ in range(5):  # two steps, and half of the third
        train_step(bank, [live.train_state])
    save_checkpoint(live)
    _, again = live_trial(folder, tmp_path)
    load_checkpoint(again)
    assert (live.train_state.micro_step, again.train_state.micro_step) == (5, 4)
    assert again.train_state.loader.part(10**6) == first_part(live, step=2)


def first_part(live: LiveTrial, step: int) -> object:
    """Return the first micro-batch of a step."""
    live.train_state.loader.rewind(step)
    return live.train_state.loader.part(10**6)


def test_the_loss_scale_of_fp16_comes_back(folder: Path, tmp_path: Path) -> None:
    bank, live = live_trial(folder, tmp_path, "fp16")
    while live.train_state.step < 1:
        train_step(bank, [live.train_state])
    live.train_state.scaler.update(2.0**7)
    save_checkpoint(live)
    _, again = live_trial(folder, tmp_path, "fp16")
    load_checkpoint(again)
    again.train_state.scaler.scale(torch.ones(1))
    assert again.train_state.scaler.get_scale() == 2.0**7
