"""Options scored in one row must have the scores that they have in separate rows."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from evaluation.choices import option_choices
from evaluation.scoring import TokenSequence, completion_logprobs
from evaluation.trees import lay_out, tree_logprobs
from tests.evaluation.plain import label_logits_of

CONFIGS = {
    "llama": LlamaConfig(
        vocab_size=40, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2,
    ),
    "gpt2": GPT2Config(vocab_size=40, n_embd=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2),
}  # fmt: skip

QUESTIONS = [
    [TokenSequence(ids=(1, 5, 6, *option), prompt_length=3) for option in ((7, 2), (8, 9, 2), (10, 11, 12, 2))],
    [TokenSequence(ids=(1, 20, 21, 22, 23, *option), prompt_length=5) for option in ((7, 2), (8, 2))],
    [TokenSequence(ids=(3, *option), prompt_length=1) for option in ((7,), (8,))],
]


def model_of(kind: str) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIGS[kind]).eval()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("copies", [1, 3])
def test_a_row_of_options_scores_like_a_row_for_each(kind: str, copies: int) -> None:
    model = model_of(kind)

    def tree_logits(ids: Tensor, positions: Tensor, mask: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
        logits: Tensor = model(input_ids=ids, position_ids=positions, attention_mask=mask).logits
        return logits[rows, cols]

    flat = [option for options in QUESTIONS for option in options]
    apart = completion_logprobs(label_logits_of(model), flat, batch_rows=4, pad_id=0, copies=copies)
    together = tree_logprobs(tree_logits, QUESTIONS, batch_rows=1, pad_id=0, copies=copies)
    assert torch.equal(together.num_tokens, apart.num_tokens)
    assert (together.logprobs - apart.logprobs).abs().max() < 1e-5
    choices = option_choices(
        label_logits_of(model), QUESTIONS, tree_logits=tree_logits, batch_rows=2, pad_id=0, copies=copies
    )
    one_by_one = option_choices(label_logits_of(model), QUESTIONS, batch_rows=2, pad_id=0, copies=copies)
    assert choices.picks == one_by_one.picks


def test_options_with_different_prompts_are_refused() -> None:
    with pytest.raises(ValueError, match="share one prompt"):
        lay_out([TokenSequence(ids=(1, 2), prompt_length=1), TokenSequence(ids=(3, 2), prompt_length=1)])


def test_a_batch_counts_the_tokens_of_all_copies() -> None:
    shapes: list[tuple[int, ...]] = []

    def tree_logits(ids: Tensor, positions: Tensor, mask: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
        shapes.append(tuple(ids.shape))
        return torch.zeros(len(rows), 40)

    tree_logprobs(tree_logits, QUESTIONS, batch_rows=2, pad_id=0, copies=2)
    assert shapes == [(2, 9), (4, 7)]  # of at most 2 * 16 tokens


def test_logits_of_16_bits_are_normalised_in_32() -> None:
    logits_V = torch.linspace(-9, 9, 40).bfloat16()
    scored = tree_logprobs(lambda *x: logits_V.expand(len(x[3]), -1), QUESTIONS[2:], batch_rows=1, pad_id=0)
    assert scored.logprobs[0].tolist() == pytest.approx(logits_V.float().log_softmax(-1)[[7, 8]].tolist(), abs=1e-5)
