"""A trial that is resumed continues as if it had not been interrupted."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lorasweep.adapters.methods.lora import LoraSpec
from lorasweep.core.messages import CHECKPOINT, Event, Finished, Note, Pause, Rung
from lorasweep.core.result import TrialResult, TrialState
from lorasweep.core.spec import TrialSpec
from lorasweep.worker.worker import Worker
from tests.specs import start, trial, worker

pytestmark = pytest.mark.slow


def ended(w: Worker) -> tuple[dict[int, TrialResult], list[Event]]:
    """Advance until no trial is live."""
    events: list[Event] = []
    while w.live:
        events += w.advance([])
    return {e.number: e.result for e in events if isinstance(e, Finished)}, events


def losses(result: TrialResult) -> list[float]:
    return [p.metrics["train/step_loss"] for p in result.history if "train/step_loss" in p.metrics]


def specs(**train: Any) -> list[TrialSpec]:
    """Two trials of unequal shape, so that each is padded in its stack."""
    plain = trial(steps=8)
    plain = replace(plain, train=replace(plain.train, per_device_train_batch_size=4, **train))
    noisy = LoraSpec(r=7, lora_alpha=9, lora_dropout=0.2, target_modules=plain.lora.target_modules[:-1])
    return [plain, replace(plain, lora=noisy, train=replace(plain.train, learning_rate=5e-3))]


def run(folder: Path, trials: list[TrialSpec]) -> dict[int, TrialResult]:
    w = worker(len(trials))
    w.advance([start(i, folder, spec) for i, spec in enumerate(trials)])
    return ended(w)[0]


def broken_off(folder: Path, trials: list[TrialSpec], num_advances: int) -> None:
    """Train for a while and pause."""
    w = worker(len(trials))
    w.advance([start(i, folder, spec) for i, spec in enumerate(trials)])
    for _ in range(num_advances):
        w.advance([])
    assert w.advance([Pause()]) == [] and not w.live


@pytest.mark.parametrize(
    "train",
    [{}, {"gradient_accumulation_steps": 3, "lr_scheduler_type": "cosine"}, {"optim": "paged_adamw_8bit"}],
    ids=["plain", "accumulation over epochs", "8 bit"],
)
def test_losses_after_a_pause_equal_those_without(tmp_path: Path, train: dict[str, Any]) -> None:
    whole = run(tmp_path / "whole", specs(**train))
    broken_off(tmp_path / "cut", specs(**train), 7)
    again = run(tmp_path / "cut", specs(**train))
    for number, result in whole.items():
        assert losses(again[number]) == pytest.approx(losses(result), abs=1e-6)
        assert again[number].metrics == pytest.approx(result.metrics, abs=1e-5)
        assert again[number].cost.num_steps == 8 and len(losses(result)) == 8


def test_a_lone_trial_goes_on_bit_by_bit(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", specs()[1:])
    broken_off(tmp_path / "cut", specs()[1:], 4)
    again = run(tmp_path / "cut", specs()[1:])
    assert losses(again[0]) == losses(whole[0]) and again[0].scores == whole[0].scores


def test_a_worker_that_is_gone_loses_the_steps_since_the_rung_only(tmp_path: Path) -> None:
    w = worker(1)
    events = w.advance([start(0, tmp_path, specs()[0])])
    while not any(isinstance(e, Rung) for e in events):
        events = w.advance([])
    w.advance([])
    again = worker(1)
    repeated = again.advance([start(0, tmp_path, specs()[0])])
    # The driver may have missed the report, so it is repeated.
    assert [e for e in repeated if isinstance(e, Rung)] == [e for e in events if isinstance(e, Rung)]
    assert again.live[0].train_state.step == 4  # it can be pruned before it continues, as without the interruption
    result, later = ended(again)
    assert not [e for e in later if isinstance(e, Rung)]
    assert [p.step for p in result[0].history if "eval/accuracy" in p.metrics] == [4, 8]


def test_a_trial_that_was_paused_at_its_rung_reports_there(tmp_path: Path) -> None:
    w = worker(1)
    w.advance([start(0, tmp_path, specs()[0])])
    w.live[0].rung = 2  # so that it passes its rung without a report
    while w.live[0].train_state.step < 4:
        w.advance([])
    w.live[0].rung = 0
    w.advance([Pause()])
    again = worker(1)
    events = again.advance([start(0, tmp_path, specs()[0])])
    assert [(e.rung, e.point.step) for e in events if isinstance(e, Rung)] == [(1, 4)]


@pytest.mark.parametrize("damage", ["empty", "half", "garbage", "header"])
def test_a_damaged_checkpoint_is_reported_and_the_trial_starts_again(tmp_path: Path, damage: str) -> None:
    broken_off(tmp_path, specs()[:1], 3)
    file = tmp_path / "0" / CHECKPOINT
    data = file.read_bytes()
    broken = {
        "empty": b"",
        "half": data[: len(data) // 2],
        "garbage": b"\xff" * 64,
        "header": data[:8] + b"{" * 40 + data[48:],
    }
    file.write_bytes(broken[damage])
    w = worker(1)
    (note,) = [e for e in w.advance([start(0, tmp_path, specs()[0])]) if isinstance(e, Note)]
    assert "cannot be read" in note.text and "starts again" in note.text
    assert w.live[0].train_state.step == 1
    whole = run(tmp_path / "whole", specs()[:1])
    assert losses(ended(w)[0][0]) == losses(whole[0])


def test_a_checkpoint_of_another_trial_is_not_taken_up(tmp_path: Path) -> None:
    broken_off(tmp_path, specs()[:1], 3)
    w = worker(1)
    events = w.advance([start(0, tmp_path, specs()[1])])
    assert any(isinstance(e, Note) and "another trial" in e.text for e in events)
    assert w.live[0].train_state.step == 1


def test_a_trial_that_is_not_finite_is_not_saved_by_a_pause(tmp_path: Path) -> None:
    w = worker(1)
    w.advance([start(0, tmp_path, specs()[0])])
    w.live[0].train_state.slot.vector.data.fill_(math.nan)
    assert ended(w)[0][0].state is TrialState.FAILED
    assert not (tmp_path / "0" / CHECKPOINT).exists()
