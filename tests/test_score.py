"""Packed scoring must say of each slot what it would say of that slot alone."""

import math

import pytest
import torch

from lorasweep.bank import Bank
from lorasweep.base import Base
from lorasweep.base_info import resolve_targets
from lorasweep.data.tasks import load_task
from lorasweep.model import load_base
from lorasweep.score import Asked, is_maximized, score_suite, write
from lorasweep.spec import LoraSpec, ModelSpec
from lorasweep.tokenizer import tokenizer_key
from tests.specs import INTENTS, trial


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base(ModelSpec(id="demo"), "cpu")


def bank_of(base: Base, num_slots: int) -> Bank:
    """Return a bank whose slots answer differently."""
    targets = resolve_targets(base.spec, "qv")
    bank = Bank(base, num_slots)
    for number in range(num_slots):
        slot = bank.add(number, LoraSpec(r=4, lora_alpha=64, target_modules=targets), seed=number)
        for _, b_RO in slot.matrices.values():
            b_RO.normal_(0, 0.02 * (number + 1))
    return bank


def test_slots_scored_together_score_as_alone(base: Base) -> None:
    bank = bank_of(base, 3)
    rows = load_task(INTENTS, base.tokenizer, tokenizer_key(base.tokenizer)).validation
    metrics = ("accuracy", "exact_match", "loss")
    together = score_suite(Asked(base, bank, tuple(bank.slots), 16), rows, metrics, trial().eval)
    for slot, packed in zip(bank.slots, together, strict=True):
        (alone,) = score_suite(Asked(base, bank, (slot,), 16), rows, metrics, trial().eval)
        assert packed.metrics == pytest.approx(alone.metrics, abs=1e-5)
        assert packed.outputs == alone.outputs
    assert len({r.metrics["loss"] for r in together}) == 3


def test_a_label_longer_than_the_limit_is_still_written_out(base: Base) -> None:
    rows = load_task(INTENTS, base.tokenizer, tokenizer_key(base.tokenizer)).validation
    longest = max(len(option) for option in rows[0].options)
    (texts,) = write(Asked(base, None, (), 16), rows, 1)
    lengths = [len(base.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
    assert longest > 1 and max(lengths) > 1


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("full"), RuntimeError("can't allocate memory: 9 bytes")])
def test_a_batch_that_does_not_fit_is_halved(base: Base, monkeypatch: pytest.MonkeyPatch, error: RuntimeError) -> None:
    rows = load_task(INTENTS, base.tokenizer, tokenizer_key(base.tokenizer)).validation
    asked, (whole,) = Asked(base, None, (), 16), score_suite(Asked(base, None, (), 2), rows, ["loss"], trial().eval)
    logits = Base.label_logits

    def small(self: Base, ids_BS: torch.Tensor, *places: torch.Tensor) -> torch.Tensor:
        if len(ids_BS) > 3:
            raise error
        return logits(self, ids_BS, *places)

    monkeypatch.setattr(Base, "label_logits", small)
    assert score_suite(asked, rows, ["loss"], trial().eval) == [whole]


def test_every_metric_has_a_direction() -> None:
    assert is_maximized("rougeL") and not is_maximized("loss")


def test_bits_per_byte_are_the_nats_over_the_bytes_of_the_answers(base: Base) -> None:
    rows = load_task(INTENTS, base.tokenizer, tokenizer_key(base.tokenizer)).validation
    (found,) = score_suite(Asked(base, None, (), 16), rows, ("loss", "bits_per_byte"), trial().eval)
    nats = found.metrics["loss"] * sum(row.num_labels for row in rows)
    num_bytes = sum(len(row.reference.encode()) + 1 for row in rows)  # an answer begins with a blank
    assert found.metrics["bits_per_byte"] == pytest.approx(nats / math.log(2) / num_bytes)
    assert found.scores["bits_per_byte"][0] * rows[0].num_bytes * math.log(2) == pytest.approx(
        found.scores["loss"][0] * rows[0].num_labels
    )
