from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from evaluation.answers import Choices, Texts, TokenLosses, most_likely
from evaluation.metrics import METRICS, accuracy, mean

REPOSITORY = Path(__file__).parents[2]
LOSSES = TokenLosses(
    nats_N=torch.tensor([1.0, 6.0]).double(), num_tokens_N=torch.tensor([1, 3]), num_bytes_N=torch.tensor([0, 4])
)
# The second option is likelier per byte, the third per token.
CHOICES = Choices(logprobs=[[-3.0, -4.0, -5.0]], num_tokens=[[1, 2, 5]], num_bytes=[[1, 8, 2]], targets=[1])


def test_accuracy_compares_indices_and_mean_sums_them_up() -> None:
    assert accuracy([0, 2, 1], [0, 1, 1]) == [1, 0, 1]
    assert mean([1, 0, 1]) == pytest.approx(2 / 3)


def test_no_examples_have_no_mean() -> None:
    with pytest.raises(ValueError, match="data point"):
        mean([])


@pytest.mark.parametrize(
    ("name", "value", "scores"),
    [
        ("loss", 7 / 4, (1, 2)),
        ("perplexity", math.exp(7 / 4), (math.e, math.exp(2))),
        ("bits_per_byte", 7 / 5 / math.log(2), (1 / math.log(2), 1.5 / math.log(2))),
    ],
)
def test_values_over_tokens_and_bytes_are_total_over_total(name: str, value: float, scores: tuple[float, ...]) -> None:
    score = METRICS[name].from_losses
    assert score is not None
    assert score(LOSSES).value == pytest.approx(value) and score(LOSSES).scores == pytest.approx(scores)


def test_options_are_picked_by_sum_per_byte_and_per_token() -> None:
    picks = CHOICES.picks(), CHOICES.picks(CHOICES.num_bytes), CHOICES.picks(CHOICES.num_tokens)
    assert picks == ([0], [1], [2])


def test_the_first_of_equally_likely_options_is_picked_and_none_beside_nan() -> None:
    assert most_likely([-2.0, -1.0, -1.0]) == 1
    assert most_likely([-1.0, math.nan]) == -1


def test_macro_f1_takes_options_and_texts_for_labels() -> None:
    metric = METRICS["macro_f1"]
    assert metric.from_choices and metric.from_texts
    chosen = metric.from_choices(Choices(logprobs=[[0, -1], [0, -1]], num_tokens=[], num_bytes=[], targets=[0, 1]))
    written = metric.from_texts(Texts(predictions=["a", "a"], references=["a", "b"]))
    assert chosen == written and chosen.value == pytest.approx(1 / 3) and chosen.scores == (1, 0)


def test_losses_alone_are_minimized() -> None:
    assert {name for name, metric in METRICS.items() if not metric.is_maximized} == {
        name for name, metric in METRICS.items() if metric.from_losses
    }


def test_forgetting_is_measured_by_means_of_examples() -> None:
    assert {name for name, metric in METRICS.items() if not metric.can_measure_forgetting} == {
        "macro_f1",
        "bits_per_byte",
    }


@pytest.mark.processes
def test_plain_functions_load_no_heavy_library() -> None:
    code = (
        "import sys, evaluation.metrics, evaluation.text_scores, evaluation.statistics, evaluation.forgetting;"
        "print(sorted({'torch', 'transformers', 'evaluate', 'datasets', 'scipy', 'nltk', 'rouge_score', 'lorasweep'}"
        "& sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
