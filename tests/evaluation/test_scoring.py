from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from evaluation.metrics import loss
from evaluation.scoring import LabelLogits, TokenSequence, completion_logprobs
from tests.evaluation.plain import label_logits_of

# Different lengths, out of order, two that share all but their last token, and one id that is also the padding.
SEQUENCES = [
    TokenSequence(ids=(1, 5, 9), prompt_length=1),
    TokenSequence(ids=(1, 7, 3, 8, 2, 11, 4), prompt_length=3),
    TokenSequence(ids=(1, 5, 12), prompt_length=2),
    TokenSequence(ids=(6, 2, 0, 0), prompt_length=2),
    TokenSequence(ids=(1, 40, 41, 42, 43, 44), prompt_length=5),
]


def naive_logprob(model: LlamaForCausalLM, sequence: TokenSequence, sharpness: float = 1.0) -> float:
    with torch.no_grad():
        logits = model(torch.tensor([sequence.ids])).logits[0] * sharpness
    places = range(sequence.prompt_length, len(sequence.ids))
    return sum(float(logits[place - 1].log_softmax(-1)[sequence.ids[place]]) for place in places)


def naive_logprobs(model: LlamaForCausalLM, sharpness: float = 1.0) -> Tensor:
    return torch.tensor([naive_logprob(model, sequence, sharpness) for sequence in SEQUENCES], dtype=torch.float64)


def slots_of_rising_sharpness(model: LlamaForCausalLM, num_slots: int) -> LabelLogits:
    """A bank in which slot k multiplies its logits by k + 1, to show which rows belong to which slot."""

    def label_logits(input_ids: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
        slots = rows // (len(input_ids) // num_slots)
        return label_logits_of(model)(input_ids, rows, cols) * (slots + 1)[:, None]

    return label_logits


@pytest.mark.parametrize("batch_rows", [1, 2, 100])
def test_logprobs_equal_a_loop_over_the_model(llama: LlamaForCausalLM, batch_rows: int) -> None:
    scored = completion_logprobs(label_logits_of(llama), SEQUENCES, batch_rows=batch_rows, pad_id=0)
    torch.testing.assert_close(scored.logprobs[0], naive_logprobs(llama), rtol=0, atol=1e-4)
    assert scored.num_tokens.tolist() == [2, 4, 1, 2, 1]


def test_three_copies_give_three_equal_results(llama: LlamaForCausalLM) -> None:
    scored = completion_logprobs(label_logits_of(llama), SEQUENCES, batch_rows=6, pad_id=0, copies=3)
    for copy in range(3):
        torch.testing.assert_close(scored.logprobs[copy], naive_logprobs(llama), rtol=0, atol=1e-4)


@pytest.mark.parametrize("batch_rows", [1, 7, 100])
def test_each_slot_scores_its_own_block_of_rows(llama: LlamaForCausalLM, batch_rows: int) -> None:
    bank = slots_of_rising_sharpness(llama, 3)
    scored = completion_logprobs(bank, SEQUENCES, batch_rows=batch_rows, pad_id=0, copies=3)
    expected = torch.stack([naive_logprobs(llama, sharpness) for sharpness in (1.0, 2.0, 3.0)])
    torch.testing.assert_close(scored.logprobs, expected, rtol=0, atol=3e-4)


def test_the_bank_hears_how_many_rows_each_slot_gets(llama: LlamaForCausalLM) -> None:
    counts: list[int] = []
    shapes: list[tuple[int, ...]] = []

    @contextmanager
    def rows(num: int) -> Iterator[None]:
        counts.append(num)
        yield

    def label_logits(input_ids: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
        shapes.append(tuple(input_ids.shape))
        return label_logits_of(llama)(input_ids, rows, cols)

    completion_logprobs(label_logits, SEQUENCES, batch_rows=7, pad_id=0, copies=2, rows=rows)
    # Five sequences are four inputs, because two of them differ only in the last token, which is not an input.
    assert counts == [3, 1]
    assert shapes == [(6, 6), (2, 2)]


def test_the_loss_is_the_models_own_loss(llama: LlamaForCausalLM) -> None:
    sequence = SEQUENCES[1]
    ids = torch.tensor([sequence.ids])
    labels = ids.clone()
    labels[:, : sequence.prompt_length] = -100
    scored = completion_logprobs(label_logits_of(llama), [sequence], batch_rows=1, pad_id=0)
    (found,) = scored.losses(torch.ones(1))
    assert loss(found).value == pytest.approx(float(llama(ids, labels=labels).loss.detach()), abs=1e-5)


def test_what_a_model_caches_while_scored_can_still_be_trained_with(llama: LlamaForCausalLM) -> None:
    seen: list[Tensor] = []

    def label_logits(input_ids: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
        seen.append(label_logits_of(llama)(input_ids, rows, cols))
        return seen[-1]

    completion_logprobs(label_logits, SEQUENCES, batch_rows=8, pad_id=0)
    assert not seen[0].requires_grad
    assert not seen[0].is_inference()


@pytest.mark.parametrize(("ids", "prompt_length"), [((1, 2), 0), ((1, 2), 2), ((), 0)])
def test_a_sequence_without_prompt_or_completion_is_refused(ids: tuple[int, ...], prompt_length: int) -> None:
    with pytest.raises(ValueError, match="at least one prompt token and one completion token"):
        TokenSequence(ids=ids, prompt_length=prompt_length)


def test_logits_of_16_bits_are_normalised_in_32(llama: LlamaForCausalLM) -> None:
    def label_logits(input_ids: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
        return label_logits_of(llama)(input_ids, rows, cols).bfloat16()

    rounded = completion_logprobs(label_logits, SEQUENCES, batch_rows=8, pad_id=0)
    with torch.no_grad():
        logits = [llama(torch.tensor([s.ids])).logits[0].bfloat16().float().log_softmax(-1) for s in SEQUENCES]
    expected = [
        sum(float(x[place - 1, s.ids[place]]) for place in range(s.prompt_length, len(s.ids)))
        for x, s in zip(logits, SEQUENCES, strict=True)
    ]
    assert rounded.logprobs[0].tolist() == pytest.approx(expected, abs=2e-2)
