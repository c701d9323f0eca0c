"""Verdicts become orders to stop, for those that report and for those whom they have beaten."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from lorasweep.study.judge import Judge

from lorasweep.config.build import Pruner, StudySettings
from lorasweep.config.grammar import parse
from lorasweep.core.messages import Rung
from lorasweep.core.result import Point
from lorasweep.study.rules import Reading
from lorasweep.study.study import Study


def judge_of(folder: Path, pruner: Pruner, num_trials: int) -> Judge:
    """Return a judge of trials that have been asked for."""
    domains = {"lora.r": parse("lora.r", "int(interval(1,64))")}
    study = Study(folder / "study.db", StudySettings(pruner=pruner), domains, maximize=True, num_rungs=3)
    for _ in range(num_trials):
        study.ask()
    return Judge(study, pruner, "accuracy")


def reported(judge: Judge, values: dict[int, float], rung: int = 1) -> list[Rung]:
    """Have trials report, and return what they said."""
    for number, value in values.items():
        judge.study.report(number, Reading(rung=rung, value=value, eval_loss=2 - value, train_loss=1, first_loss=4))
    return [Rung(number=n, rung=rung, value=v, point=Point(step=2 * rung, metrics={})) for n, v in values.items()]


def stopped(judge: Judge, rungs: Sequence[Rung], live: range) -> list[int]:
    return [stop.number for stop in judge.hear(rungs, live)]


def test_early_ones_are_judged_again_by_those_who_come_later(tmp_path: Path) -> None:
    judge, live = judge_of(tmp_path, "losers", 6), range(6)
    assert stopped(judge, reported(judge, {0: 0.1, 1: 0.2, 2: 0.9}), live) == []
    assert stopped(judge, reported(judge, {3: 0.3, 4: 0.8, 5: 0.7}), live) == [0, 1, 3]
    assert stopped(judge, [], live) == []


def test_who_has_gone_further_or_has_ended_is_not_judged_by_an_early_rung(tmp_path: Path) -> None:
    judge = judge_of(tmp_path, "losers", 7)
    stopped(judge, reported(judge, {0: 0.1, 1: 0.2, 2: 0.3}), range(7))
    stopped(judge, reported(judge, {0: 0.1}, rung=2), range(7))
    assert stopped(judge, reported(judge, {3: 0.6, 4: 0.8, 5: 0.7}), range(2, 7)) == [2]


def test_other_pruners_judge_once(tmp_path: Path) -> None:
    judge, live = judge_of(tmp_path, "median", 6), range(6)
    assert stopped(judge, reported(judge, {0: 0.1, 1: 0.2, 2: 0.9}), live) == []
    assert stopped(judge, reported(judge, {3: 0.3, 4: 0.8, 5: 0.7}), live) == [3]


def test_the_order_says_who_where_and_why(tmp_path: Path) -> None:
    judge = judge_of(tmp_path, "losers", 6)
    [stop, *_] = judge.hear(reported(judge, {n: n / 10 for n in range(6)}), range(6))
    assert stop.rule == "rank" and stop.number == 0
    assert stop.reason.startswith("losers pruner: accuracy 0 at rung 1 (step 2): number 6 of 6")


@pytest.mark.parametrize("pruner", ["losers", "median"])
def test_nobody_is_judged_where_nobody_reports(tmp_path: Path, pruner: Pruner) -> None:
    assert judge_of(tmp_path, pruner, 1).hear([], range(1)) == []


def test_a_trial_that_has_been_stopped_is_not_stopped_again(tmp_path: Path) -> None:
    judge, live = judge_of(tmp_path, "losers", 7), range(7)
    assert stopped(judge, reported(judge, {n: n / 10 for n in range(6)}), live) == [0, 1, 2]
    assert stopped(judge, reported(judge, {6: 0.9}), live) == []  # the fourth of seven goes on
