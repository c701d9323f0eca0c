"""Configurations are ordered by objective, then by loss, size and number."""

from dataclasses import replace
from typing import Any

import pytest

from lorasweep.core.result import Cost, Point, TrialResult, TrialState
from lorasweep.study.selection import Configuration, in_order, winner
from tests.settings import SPEC, adapted, result


def trial(number: int, objective: float | None = 0.5, *, r: int = 0, seed: int = 0, **values: Any) -> TrialResult:
    """Return a complete trial; its rank is its number, so that each trial is a different configuration."""
    lora, train = adapted(r=r or number + 1).lora, replace(SPEC.train, seed=seed)
    found = replace(result(number, objective=objective, examples="same"), spec=replace(SPEC, lora=lora, train=train))
    return replace(found, **values)


def on_base(found: TrialResult, base: str) -> TrialResult:
    return replace(found, spec=replace(found.spec, model=replace(found.spec.model, id=base)))


def order(*results: TrialResult, objective: str = "accuracy") -> list[int]:
    return [found.result.number for found in in_order(results, objective)[0]]


def one(*results: TrialResult) -> Configuration:
    [found] = in_order(results, "accuracy")[0]
    return found


def test_the_better_objective_comes_first_whatever_its_direction() -> None:
    results = [trial(0, 0.5), trial(1, 0.7), trial(2, 0.6)]
    assert order(*results) == [1, 2, 0]
    assert order(*results, objective="loss") == [0, 2, 1]


def test_between_equals_the_lower_loss_comes_first_and_a_missing_one_last() -> None:
    losses: list[dict[str, float]] = [{}, {"loss": float("nan")}, {"loss": 2.0}, {"loss": 1.0}]
    assert order(*(trial(n, metrics=metrics) for n, metrics in enumerate(losses))) == [3, 2, 0, 1]


def test_between_equals_on_two_bases_bits_per_byte_decide() -> None:
    first = trial(0, metrics={"loss": 1.0, "bits_per_byte": 3.0})
    second = trial(1, metrics={"loss": 2.0, "bits_per_byte": 2.0})
    assert order(first, second) == [0, 1]
    assert order(first, on_base(second, "another")) == [1, 0]


def test_between_equals_of_equal_loss_the_smaller_comes_first() -> None:
    sizes = [300, 100, 200, 100]
    found = [trial(n, cost=Cost(trainable_parameters=size), metrics={"loss": 1.0}) for n, size in enumerate(sizes)]
    assert order(*found) == [1, 3, 2, 0]


def test_seeds_are_averaged_and_a_metric_that_one_lacks_is_left_out() -> None:
    found = one(
        trial(0, 0.4, r=8, seed=0, metrics={"loss": 1.0, "forgetting": 0.1}),
        trial(1, 0.8, r=8, seed=1, metrics={"loss": 2.0}),
    )
    assert found.objective("accuracy") == pytest.approx(0.6)
    assert (found.metric("loss"), found.metric("forgetting")) == (1.5, None)
    assert found.spread == pytest.approx(0.08**0.5)  # of a sample: divided by one less than the number of seeds


def test_a_setting_is_represented_by_its_first_seed_and_not_by_its_best() -> None:
    found = one(trial(0, 0.4, r=8, seed=0), trial(1, 0.8, r=8, seed=1))
    assert found.result.number == 0


def test_a_pruned_trial_has_the_objective_that_it_reported_last() -> None:
    history = tuple(Point(step=step, metrics={"eval/accuracy": step / 10}) for step in (1, 5, 3))
    [found] = in_order([trial(0, None, state=TrialState.PRUNED, history=history)], "accuracy")[1]
    assert found.objective("accuracy") == 0.3


def test_a_double_is_ranked_only_where_its_original_is_missing() -> None:
    double = trial(1, 0.9, same_as=0)
    assert order(trial(0), double) == [0]
    assert order(double) == [1]
    assert winner([double], "accuracy") is None


def test_what_most_were_scored_on_is_ranked() -> None:
    assert order(trial(0, 0.9, examples="other"), trial(1), trial(2, 0.6)) == [2, 1]
