"""Packed scoring must give each slot the scores that it has alone."""

import math
from dataclasses import replace

import pytest
import torch

from evaluation.metrics import METRICS
from lorasweep.adapters.bank import Bank
from lorasweep.adapters.load import load_base
from lorasweep.adapters.methods.lora import LoraSpec
from lorasweep.core.spec import ModelSpec
from lorasweep.data.formats import Example
from lorasweep.data.render import TokenRow, render
from lorasweep.data.tasks import load_task
from lorasweep.models.base import Base
from lorasweep.models.info import resolve_targets
from lorasweep.models.tokenizer import tokenizer_key
from lorasweep.worker.scoring import NOT_SCORED, PackedModel, score_suite, scored_content, write
from tests.changes import changed
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
        for _, b_RO in slot.tensors.values():
            b_RO.normal_(0, 0.02 * (number + 1))
    return bank


def test_slots_scored_together_score_as_alone(base: Base) -> None:
    bank = bank_of(base, 3)
    rows = load_task(INTENTS, base.tokenizer, tokenizer_key(base.tokenizer)).validation
    metrics = ("accuracy", "exact_match", "loss")
    together = score_suite(PackedModel(base, bank, tuple(bank.slots), 16), rows, metrics, trial().eval)
    for slot, packed in zip(bank.slots, together, strict=True):
        (alone,) = score_suite(PackedModel(base, bank, (slot,), 16), rows, metrics, trial().eval)
        assert packed.metrics == pytest.approx(alone.metrics, abs=1e-5)
        assert packed.outputs == alone.outputs
    assert len({r.metrics["loss"] for r in together}) == 3


def test_the_loss_is_the_mean_of_its_examples_weighted_by_their_tokens(base: Base) -> None:
    rows = load_task(INTENTS, base.tokenizer, tokenizer_key(base.tokenizer)).validation
    (found,) = score_suite(PackedModel(base, None, (), 16), rows, ("loss",), trial().eval)
    weighted = sum(loss * num for loss, num in zip(found.scores["loss"], found.num_tokens, strict=True))
    assert len(set(found.num_tokens)) > 1
    assert found.metrics["loss"] == pytest.approx(weighted / sum(found.num_tokens))


def test_a_label_longer_than_the_limit_is_still_written_out(base: Base) -> None:
    rows = load_task(INTENTS, base.tokenizer, tokenizer_key(base.tokenizer)).validation
    longest = max(len(option) for option in rows[0].options)
    (texts,) = write(PackedModel(base, None, (), 16), rows, 1)
    lengths = [len(base.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
    assert longest > 1 and max(lengths) > 1


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("full"), RuntimeError("can't allocate memory: 9 bytes")])
def test_a_batch_that_does_not_fit_is_halved(base: Base, monkeypatch: pytest.MonkeyPatch, error: RuntimeError) -> None:
    rows = load_task(INTENTS, base.tokenizer, tokenizer_key(base.tokenizer)).validation
    packed, (whole,) = (
        PackedModel(base, None, (), 16),
        score_suite(PackedModel(base, None, (), 2), rows, ["loss"], trial().eval),
    )
    logits = Base.label_logits

    def small(self: Base, ids_BS: torch.Tensor, *places: torch.Tensor) -> torch.Tensor:
        if len(ids_BS) > 3:
            raise error
        return logits(self, ids_BS, *places)

    monkeypatch.setattr(Base, "label_logits", small)
    assert score_suite(packed, rows, ["loss"], trial().eval) == [whole]


def test_bits_per_byte_are_the_nats_over_the_bytes_of_the_answers(base: Base) -> None:
    rows = load_task(INTENTS, base.tokenizer, tokenizer_key(base.tokenizer)).validation
    (found,) = score_suite(PackedModel(base, None, (), 16), rows, ("loss", "bits_per_byte"), trial().eval)
    nats = found.metrics["loss"] * sum(row.num_labels for row in rows)
    num_bytes = sum(len(row.reference.encode()) + 1 for row in rows)  # an answer begins with a blank
    assert found.metrics["bits_per_byte"] == pytest.approx(nats / math.log(2) / num_bytes)
    assert found.scores["bits_per_byte"][0] * rows[0].num_bytes * math.log(2) == pytest.approx(
        found.scores["loss"][0] * rows[0].num_labels
    )


def question(base: Base, *options: str, target: int = 0) -> TokenRow:
    (row,) = render([Example(prompt="A rose is", completion=options[target], options=options)], base.tokenizer, 99)
    return row


def logprobs(base: Base, row: TokenRow, *, end: bool) -> list[float]:
    """Return each option's log-probability, one option at a time."""
    found = []
    for option in row.options:
        ids = row.ids[: row.prompt_length] + (option if end else option[:-1])
        with torch.no_grad():
            logits_SV = base.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        places = range(row.prompt_length, len(ids))
        found.append(sum(float(logits_SV[place - 1, ids[place]]) for place in places))
    return found


ACCURACIES = tuple(name for name, metric in METRICS.items() if metric.needs_options)
OPTIONS = (" a red flower in the garden", " no", " a message about the order and the bill")


@pytest.mark.parametrize("end", [True, False])
def test_options_are_chosen_by_sum_by_bytes_and_by_tokens(base: Base, end: bool) -> None:
    row = question(base, *OPTIONS)
    sums, spec = logprobs(base, row, end=end), replace(trial().eval, end_token=end)
    per_byte = [x / len(option.strip()) for x, option in zip(sums, OPTIONS, strict=True)]
    per_token = [x / (len(o) - (not end)) for x, o in zip(sums, row.options, strict=True)]
    rows = [question(base, *OPTIONS, target=n) for n in range(3)]
    (found,) = score_suite(PackedModel(base, None, (), 16), rows, ACCURACIES, spec)
    for name, values in zip(ACCURACIES, (sums, per_byte, per_token), strict=True):
        assert found.scores[name] == tuple(float(n == values.index(max(values))) for n in range(3))
    assert len({found.scores[name] for name in ACCURACIES}) > 1


def test_the_loss_counts_the_end_token_however_options_are_scored(base: Base) -> None:
    rows, packed = [question(base, *OPTIONS)], PackedModel(base, None, (), 16)
    with_end, without = (
        score_suite(packed, rows, ("accuracy", "loss"), replace(trial().eval, end_token=end))[0]
        for end in (True, False)
    )
    assert without.metrics["loss"] == pytest.approx(with_end.metrics["loss"], abs=1e-6)


def test_options_with_prompts_of_their_own_are_scored_behind_them(base: Base) -> None:
    prompts = ("The big red", "The small blue")
    (row,) = render(
        [Example(prompt=prompts[1], completion=" box is here", options=(" box is here",) * 2, option_prompts=prompts)],
        base.tokenizer, 99,
    )  # fmt: skip
    (found,) = score_suite(PackedModel(base, None, (), 16), [row], ("accuracy", "loss"), trial().eval)
    plain = [render([Example(prompt=p, completion=" box is here")], base.tokenizer, 99) for p in prompts]
    packed = PackedModel(base, None, (), 16)
    alone = [score_suite(packed, rows, ("loss",), trial().eval)[0].metrics["loss"] for rows in plain]
    assert found.metrics["accuracy"] == float(alone[1] < alone[0])
    assert found.metrics["loss"] == pytest.approx(alone[1], abs=1e-5)


ROW = TokenRow(ids=(1, 2, 3), is_label=(), prompt_length=1)


@pytest.mark.parametrize(("name", "other"), list(changed(ROW)))
def test_every_field_of_a_row_names_its_scores_or_is_listed_with_a_reason(name: str, other: TokenRow) -> None:
    assert (scored_content([other]) == scored_content([ROW])) == bool(NOT_SCORED.get(name))
