"""The pruner stops trials that have just reported, and earlier trials that are worse than later ones."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from lorasweep.config.grammar import parse
from lorasweep.config.settings import Pruner, StudySettings
from lorasweep.core.messages import Rung
from lorasweep.core.result import Point
from lorasweep.study.rules import RungReport
from lorasweep.study.study import Study


def study_of(folder: Path, pruner: Pruner, num_trials: int) -> Study:
    """Return a study that has asked for trials."""
    domains = {"lora.r": parse("lora.r", "int(interval(1,64))")}
    settings = StudySettings(pruner=pruner)
    study = Study(folder / "study.db", settings, domains, objective="accuracy", num_rungs=3)
    for _ in range(num_trials):
        study.ask()
    return study


def reported(study: Study, values: dict[int, float], rung: int = 1) -> list[Rung]:
    """Report objectives and return the events."""
    for number, value in values.items():
        study.report(number, RungReport(rung=rung, value=value, eval_loss=2 - value, train_loss=1, first_loss=4))
    return [Rung(number=n, rung=rung, value=v, point=Point(step=2 * rung, metrics={})) for n, v in values.items()]


def stopped(study: Study, rungs: Sequence[Rung], live: range) -> list[int]:
    return [stop.number for stop in study.prune(rungs, live)]


def test_early_trials_are_compared_again_when_later_ones_report(tmp_path: Path) -> None:
    study, live = study_of(tmp_path, "rules", 6), range(6)
    assert stopped(study, reported(study, {0: 0.1, 1: 0.2, 2: 0.9}), live) == []
    assert stopped(study, reported(study, {3: 0.3, 4: 0.8, 5: 0.7}), live) == [0, 1, 3]
    assert stopped(study, [], live) == []


def test_trials_beyond_a_rung_and_ended_ones_are_not_pruned_at_it(tmp_path: Path) -> None:
    study = study_of(tmp_path, "rules", 7)
    stopped(study, reported(study, {0: 0.1, 1: 0.2, 2: 0.3}), range(7))
    stopped(study, reported(study, {0: 0.1}, rung=2), range(7))
    assert stopped(study, reported(study, {3: 0.6, 4: 0.8, 5: 0.7}), range(2, 7)) == [2]


def test_other_pruners_decide_once(tmp_path: Path) -> None:
    study, live = study_of(tmp_path, "median", 6), range(6)
    assert stopped(study, reported(study, {0: 0.1, 1: 0.2, 2: 0.9}), live) == []
    assert stopped(study, reported(study, {3: 0.3, 4: 0.8, 5: 0.7}), live) == [3]


def test_the_stop_command_has_the_trial_rule_and_reason(tmp_path: Path) -> None:
    study = study_of(tmp_path, "rules", 6)
    [stop, *_] = study.prune(reported(study, {n: n / 10 for n in range(6)}), range(6))
    assert stop.rule == "rank" and stop.number == 0
    assert stop.reason.startswith("rules pruner: accuracy 0 at rung 1 (step 2): number 6 of 6")


@pytest.mark.parametrize("pruner", ["rules", "median"])
def test_no_trial_is_stopped_where_none_reports(tmp_path: Path, pruner: Pruner) -> None:
    assert study_of(tmp_path, pruner, 1).prune([], range(1)) == []


def test_a_stopped_trial_is_not_stopped_again(tmp_path: Path) -> None:
    study, live = study_of(tmp_path, "rules", 7), range(7)
    assert stopped(study, reported(study, {n: n / 10 for n in range(6)}), live) == [0, 1, 2]
    assert stopped(study, reported(study, {6: 0.9}), live) == []  # the fourth of seven continues
