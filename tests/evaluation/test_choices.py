from __future__ import annotations

import torch
from torch import Tensor

from evaluation.choices import option_choices
from evaluation.scoring import LabelLogits, TokenSequence


def unigram(probabilities_per_slot: list[list[float]]) -> LabelLogits:
    """A bank in which each slot gives every token a fixed probability, independent of earlier tokens."""
    log_probabilities = torch.tensor(probabilities_per_slot).log()

    def label_logits(input_ids: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
        return log_probabilities[rows // (len(input_ids) // len(log_probabilities))]

    return label_logits


def question(*options: tuple[int, ...]) -> list[TokenSequence]:
    return [TokenSequence(ids=(0, 0, *option), prompt_length=2) for option in options]


def test_the_likeliest_completion_wins_not_the_likelier_tokens() -> None:
    # Token 1: 0.4, token 2: 0.5. One token 1 has probability 0.4; two tokens 2 have 0.25, which is 0.5 per token.
    model = unigram([[0.1, 0.4, 0.5]])
    assert option_choices(model, [question((1,), (2, 2))], batch_rows=8, pad_id=0).picks == [[0]]


def test_each_copy_answers_every_question_for_itself() -> None:
    model = unigram([[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]])
    questions = [question((1,), (2,), (3,)), question((2,), (1,)), question((3, 3, 3), (1, 1, 1), (2, 2, 2), (3, 1, 2))]
    for batch_rows in (1, 2, 3, 64):
        chosen = option_choices(model, questions, batch_rows=batch_rows, pad_id=0, copies=2)
        assert chosen.picks == [[2, 0, 0], [0, 1, 1]]


def test_the_first_of_equally_likely_options_wins() -> None:
    assert option_choices(unigram([[0.5, 0.5]]), [question((1,), (1,))], batch_rows=8, pad_id=0).picks == [[0]]


def test_a_model_with_nan_logits_chooses_nothing() -> None:
    model = unigram([[0.1, 0.4, 0.5], [0.1, float("nan"), 0.5]])
    chosen = option_choices(model, [question((1,), (2,))], batch_rows=8, pad_id=0, copies=2)
    assert chosen.picks == [[1], [-1]]


def test_an_option_without_a_number_leaves_the_question_open() -> None:
    def label_logits(input_ids: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
        logits = torch.zeros(len(cols), 3)
        logits[cols > 1] = float("nan")  # only options of two tokens have one there
        return logits

    chosen = option_choices(label_logits, [question((1,), (2, 2)), question((1,), (2,))], batch_rows=8, pad_id=0)
    assert chosen.picks == [[-1, 0]]
