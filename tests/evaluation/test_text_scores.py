from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import pytest

from evaluation.text_scores import exact_match, label_f1, macro_f1, rouge, token_f1

SCORES: dict[str, Callable[[Sequence[str], Sequence[str]], list[float]]] = {
    "exact_match": exact_match,
    "rouge1": partial(rouge, name="rouge1"),
    "rouge2": partial(rouge, name="rouge2"),
    "rougeL": partial(rouge, name="rougeL"),
    "token_f1": token_f1,
}


def test_exact_match_forgives_white_space_and_only_on_request_case() -> None:
    predictions, references = ["  new\n york ", "New York", "York"], ["new york"] * 3
    assert exact_match(predictions, references) == [1, 0, 0]
    assert exact_match(predictions, references, casefold=True) == [1, 1, 0]


def test_rouge_equals_the_values_worked_out_by_hand() -> None:
    prediction, reference = ["the cat sat on the mat"], ["the cat is on the mat"]
    assert rouge(prediction, reference, name="rouge1") == [pytest.approx(5 / 6)]
    assert rouge(prediction, reference, name="rouge2") == [pytest.approx(3 / 5)]
    # In reverse the words are all there, and the longest common subsequence has two words.
    assert rouge(["mat cat the"], ["the cat mat"], name="rouge1") == [1]
    assert rouge(["mat cat the"], ["the cat mat"], name="rougeL") == [pytest.approx(1 / 3)]


@pytest.mark.parametrize("name", ["rouge1", "rouge2", "rougeL"])
@pytest.mark.parametrize("use_stemmer", [False, True])
def test_rouge_agrees_with_rouge_score_on_ascii_text(name: str, use_stemmer: bool) -> None:
    from rouge_score.rouge_scorer import RougeScorer  # type: ignore[import-untyped,unused-ignore]

    prediction, reference = "It's 3_fold: running quickly, dogs RAN.", "the dog runs 3 fold; it quickly ran."
    expected = RougeScorer([name], use_stemmer=use_stemmer).score(reference, prediction)[name].fmeasure
    assert rouge([prediction], [reference], name=name, use_stemmer=use_stemmer) == [expected]  # type: ignore[arg-type]
    assert 0 < expected < 1


def test_stemming_matches_inflected_words() -> None:
    assert rouge(["dogs running"], ["dog runs"], name="rouge1") == [0]
    assert rouge(["boats running"], ["boat runs"], name="rouge1", use_stemmer=True) == [1]


def test_words_of_three_letters_keep_their_s() -> None:
    assert rouge(["gas"], ["ga"], name="rouge1", use_stemmer=True) == [0]


def test_wide_letters_and_digits_equal_narrow_ones() -> None:
    assert rouge(["ＡＢＣ１２"], ["abc12"], name="rouge1") == [1]


@pytest.mark.parametrize("text", ["東京は日本の首都です。", "今天天气很好", "столица России", "서울은 수도입니다"])
@pytest.mark.parametrize("name", ["rouge1", "rouge2", "rougeL", "token_f1"])
def test_text_outside_ascii_matches_itself(text: str, name: str) -> None:
    other = "まったく違うもの"
    assert SCORES[name]([text, other], [text, text])[0] == 1
    assert SCORES[name]([other], [text])[0] < 0.5


def test_text_without_spaces_is_compared_character_by_character() -> None:
    assert rouge(["東京都"], ["京都"], name="rouge1") == [pytest.approx(0.8)]
    assert token_f1(["東京都。"], ["京都"]) == [pytest.approx(0.8)]


def test_token_f1_ignores_case_articles_and_punctuation_as_squad_does() -> None:
    assert token_f1(["The cat sat!"], ["a cat"]) == [pytest.approx(2 / 3)]
    assert token_f1(["U.S.", "", "", "x x"], ["us", "the", "us", "x"]) == [1, 1, 0, pytest.approx(2 / 3)]
    assert token_f1(["an apple"], ["apple"]) == [1]


def test_macro_f1_counts_every_reference_label_the_same() -> None:
    predictions, references = ["a", "a", "b", " c "], ["a", "b", "b", "a"]
    # a: 1 hit, 2 predicted, 2 actual; b: 1 hit, 1 predicted, 2 actual; c is never correct.
    assert label_f1(predictions, references) == {"a": pytest.approx(1 / 2), "b": pytest.approx(2 / 3)}
    assert macro_f1(predictions, references) == pytest.approx(7 / 12)


@pytest.mark.parametrize("name", SCORES)
def test_every_text_metric_refuses_lists_of_unequal_length(name: str) -> None:
    with pytest.raises(ValueError, match="longer"):
        SCORES[name](["a"], ["a", "b"])


def test_no_labels_have_no_f1() -> None:
    with pytest.raises(ValueError, match="data point"):
        macro_f1([], [])
