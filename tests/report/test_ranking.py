"""Ties and the Pareto front compare the objective itself, example by example."""

from dataclasses import replace
from typing import Any

import pytest

from lorasweep.core.result import Cost, TrialResult
from lorasweep.report.ranking import contributions, interval_of, optimism, pareto, tied
from lorasweep.study.selection import Configuration, in_order
from tests.report.conftest import make_trial

TOKENS = (10,) * 20 + (1,) * 20  # half of the answers are long
LONG_IS_EASY = (1.0,) * 20 + (2.0,) * 20
SHORT_IS_EASY = (2.0,) * 20 + (1.0,) * 20


def over_tokens(losses: tuple[float, ...]) -> float:
    return sum(loss * number for loss, number in zip(losses, TOKENS, strict=True)) / sum(TOKENS)


def loss_trial(number: int, losses: tuple[float, ...], **values: Any) -> TrialResult:
    found = make_trial(number, params={"lora.r": number + 1}, scores=losses, num_tokens=TOKENS, **values)
    return replace(found, objective=over_tokens(losses))


def ranked(*results: TrialResult, objective: str) -> list[Configuration]:
    return in_order(results, objective)[0]


def test_losses_are_compared_token_by_token() -> None:
    """Both have the same mean over examples; over tokens one is far better."""
    found = ranked(loss_trial(0, LONG_IS_EASY), loss_trial(1, SHORT_IS_EASY), objective="loss")
    assert tied(found, "loss") == {0}


@pytest.mark.parametrize("objective", ["loss", "perplexity"])
def test_contributions_have_the_objective_as_their_mean(objective: str) -> None:
    scores = LONG_IS_EASY if objective == "loss" else tuple(2.718281828459045**loss for loss in LONG_IS_EASY)
    value = over_tokens(LONG_IS_EASY) if objective == "loss" else 2.718281828459045 ** over_tokens(LONG_IS_EASY)
    parts = contributions(replace(loss_trial(0, LONG_IS_EASY), scores=scores), objective)
    assert sum(parts) / len(parts) == pytest.approx(value)
    assert len({round(part, 6) for part in parts}) == 2
    slope = value if objective == "perplexity" else 1  # of the exponential function at the loss
    weight, own = 40 * 10 / sum(TOKENS), over_tokens(LONG_IS_EASY)
    assert parts[0] == pytest.approx(value + slope * weight * (1.0 - own))


def test_a_setting_whose_forgetting_is_unknown_is_not_taken_to_forget_nothing() -> None:
    def one(number: int, **metrics: float) -> TrialResult:
        params = {"lora.r": number + 1}
        return make_trial(number, params=params, metrics=metrics, cost=Cost(trainable_parameters=100))

    assert pareto(ranked(one(0, forgetting=0.1), one(1), objective="accuracy"), "accuracy") == {0}


def test_equal_settings_are_both_on_the_front() -> None:
    trials = [make_trial(n, params={"lora.r": n + 1}) for n in range(2)]
    assert pareto(ranked(*trials, objective="accuracy"), "accuracy") == {0, 1}


def test_a_score_that_is_no_mean_of_its_examples_has_no_interval_and_no_optimism() -> None:
    trials = [replace(make_trial(n, params={"lora.r": n + 1}), objective=0.123) for n in range(2)]
    found = ranked(*trials, objective="macro_f1")
    assert interval_of(found[0], "macro_f1") is None and optimism(found, "macro_f1") is None
