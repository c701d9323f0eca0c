"""On a device that is too small: smaller passes, recomputed activations, fewer slots; then a trial is infeasible."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lorasweep.adapters.bank import Bank
from lorasweep.core.messages import CHECKPOINT, Event, Evicted, Finished
from lorasweep.core.result import TrialResult, TrialState
from lorasweep.core.spec import TrialSpec
from lorasweep.core.trial import Trial
from lorasweep.driver.queue import TrialQueue, is_at_least
from lorasweep.worker.worker import Worker
from tests.settings import SPEC, adapted, result, trained, with_adapter
from tests.specs import start, trial, worker

pytestmark = pytest.mark.slow


class Small:
    """A device with a maximum of tokens per pass, eight times as many if activations are recomputed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, max_tokens: int, gain: int = 8) -> None:
        self.max_tokens, self.gain = max_tokens, gain
        self.fitted: list[int] = []
        self.num_refused = 0
        whole = Bank.backward

        def backward(bank: Bank, slots: Any, batches: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
            tokens = sum(batch.num_tokens for batch in batches)
            loss_K = whole(bank, slots, batches, *args, **kwargs)  # gradients exist when it fails
            if tokens > self.max_tokens * (self.gain if bank.base.model.training else 1):
                self.num_refused += 1
                raise torch.OutOfMemoryError("the device is full")
            self.fitted.append(tokens)
            return loss_K

        monkeypatch.setattr(Bank, "backward", backward)


def specs(dropout: float = 0.3) -> list[TrialSpec]:
    plain = trial(steps=4)
    train = replace(plain.train, per_device_train_batch_size=6, gradient_accumulation_steps=2)
    return [
        with_adapter(replace(plain, train=train), lora_dropout=dropout),
        with_adapter(replace(plain, train=replace(train, learning_rate=5e-3)), r=16, lora_alpha=8),
    ]


def drained(w: Worker) -> tuple[dict[int, TrialResult], list[Event]]:
    events: list[Event] = []
    while w.live:
        events += w.advance([])
    return {e.number: e.result for e in events if isinstance(e, Finished)}, events


def run(folder: Path, trials: list[TrialSpec]) -> tuple[dict[int, TrialResult], list[Event]]:
    w = worker(len(trials))
    first = w.advance([start(i, folder, spec) for i, spec in enumerate(trials)])
    events = [*first, *drained(w)[1]]
    return {e.number: e.result for e in events if isinstance(e, Finished)}, events


def losses(result: TrialResult) -> list[float]:
    return [p.metrics["train/step_loss"] for p in result.history if "train/step_loss" in p.metrics]


@pytest.mark.parametrize(("max_tokens", "gain"), [(150, 8), (70, 8), (10, 8)], ids=["some", "few", "sparing"])
def test_smaller_passes_give_the_same_losses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_tokens: int, gain: int
) -> None:
    whole, _ = run(tmp_path / "whole", specs())
    small = Small(monkeypatch, max_tokens, gain)
    cut, events = run(tmp_path / "cut", specs())
    assert small.num_refused and max(small.fitted) <= max_tokens * gain
    assert not [e for e in events if isinstance(e, Evicted)]
    for number, plain in whole.items():
        assert losses(cut[number]) == pytest.approx(losses(plain), abs=1e-5)
        assert len(losses(plain)) == 4 and cut[number].cost.num_steps == 4


def refuse_together(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """After a number of steps, let every step fail while two trials are live."""
    whole, calls = Bank.backward, []

    def backward(bank: Bank, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss_K = whole(bank, *args, **kwargs)
        calls.append(1)
        if len(bank.live) > 1 and len(calls) > after:
            raise torch.OutOfMemoryError("the device is full")
        return loss_K

    monkeypatch.setattr(Bank, "backward", backward)


def test_the_largest_trial_waits_with_a_checkpoint_and_the_other_one_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = run(tmp_path / "whole", specs())
    refuse_together(monkeypatch, after=4)
    ended, events = run(tmp_path / "cut", specs())
    (evicted,) = [e for e in events if isinstance(e, Evicted)]
    assert (evicted.number, evicted.reason) == (1, "out of memory: the device is full")
    assert losses(ended[0]) == pytest.approx(losses(whole[0]), abs=1e-5)
    assert (tmp_path / "cut" / "1" / CHECKPOINT).is_file()
    later = worker(1)
    later.advance([start(1, tmp_path / "cut", specs()[1])])
    assert later.live[1].train_state.losses  # it did not start again
    assert losses(drained(later)[0][1]) == pytest.approx(losses(whole[1]), abs=1e-5)


def test_a_trial_of_which_not_one_row_fits_is_infeasible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Small(monkeypatch, 1, gain=1)
    ended, _ = run(tmp_path, specs()[:1])
    assert ended[0].state is TrialState.INFEASIBLE and "out of memory" in ended[0].reason


@pytest.mark.parametrize(
    ("spec", "is_hopeless"),
    [
        (adapted(r=16), True),
        (trained(per_device_train_batch_size=8), True),
        (trained(learning_rate=1.0), True),
        (adapted(target_modules=("q_proj", "v_proj", "o_proj")), True),
        (adapted(r=4), False),
        (adapted(target_modules=("q_proj",)), False),
        (trained(per_device_train_batch_size=2), False),
        (trained(optim="paged_adamw_8bit"), False),
        (replace(SPEC, data=replace(SPEC.data, max_length=64)), False),
        (replace(SPEC, model=replace(SPEC.model, precision="nf4")), False),
    ],
)
def test_what_needs_no_less_than_an_infeasible_trial_is_not_tried(spec: TrialSpec, is_hopeless: bool) -> None:
    queue = TrialQueue([result(3, TrialState.INFEASIBLE)])
    assert is_at_least(spec, SPEC) is is_hopeless
    assert ("no less than trial 3" in queue.too_large(spec)) is is_hopeless
    assert TrialQueue([result(3)]).too_large(spec) == ""


def test_an_equal_trial_waits_for_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = TrialQueue([])
    for number in range(2):
        queue.add(Trial(number=number, params={}, spec=SPEC))
    assert [item.number for item in queue.waiting] == [0]
    assert [(r.number, r.same_as) for r in queue.close(result(0))] == [(1, 0)]
