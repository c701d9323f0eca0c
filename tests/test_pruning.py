"""Pruning in a real study, of trials that reach a rung together or one after another."""

from dataclasses import replace
from typing import Literal

import optuna
import pytest

from lorasweep.core.result import Cost, Point, TrialState
from lorasweep.study.pruners import PeerPruner, RulePruner, prune_decisions, report, reports_of, rung_reports
from lorasweep.study.rules import RungReport
from tests.settings import SPEC, result


@pytest.fixture
def study() -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(direction="maximize", pruner=RulePruner(2))


def reading(value: float, rung: int = 1, train_loss: float = 1.0) -> RungReport:
    return RungReport(rung=rung, value=value, eval_loss=1 - value, train_loss=train_loss, first_loss=4.0)


def test_trials_that_reach_a_rung_together_are_compared_with_the_same_peers(study: optuna.Study) -> None:
    trials = [study.ask() for _ in range(8)]
    for trial in trials:
        report(study, trial, reading(trial.number / 10))
    assert {n: v.rule for n, v in prune_decisions(study, dict.fromkeys(range(8), 1)).items()} == dict.fromkeys(
        range(4), "rank"
    )
    assert [t.should_prune() for t in trials] == [True] * 4 + [False] * 4


def test_trials_that_run_one_after_another_are_compared_with_earlier_ones(study: optuna.Study) -> None:
    gone = []
    for value in (0.1, 0.5, 0.6, 0.7, 0.2, 0.8, 0.3):
        trial = study.ask()
        report(study, trial, reading(value))
        is_gone = trial.number in prune_decisions(study, {trial.number: 1})
        gone.append(is_gone)
        study.tell(trial, None if is_gone else value, state=optuna.trial.TrialState.PRUNED if is_gone else None)
    # The first four had too few peers.
    assert gone == [False, False, False, False, True, False, True]


def test_the_first_rule_with_a_reason_decides(study: optuna.Study) -> None:
    trials = [study.ask() for _ in range(5)]
    for trial in trials:
        report(study, trial, reading(trial.number / 10, train_loss=9.0 if trial.number == 0 else 1.0))
    found = prune_decisions(study, dict.fromkeys(range(5), 1))
    assert (found[0].rule, found[1].rule) == ("divergence", "rank")


def test_readings_ahead_of_a_trial_that_began_again_do_not_count(study: optuna.Study) -> None:
    trial, other = study.ask(), study.ask()
    report(study, other, reading(0.9))
    report(study, trial, reading(0.5))
    report(study, trial, reading(0.1, rung=2, train_loss=9.0))
    assert prune_decisions(study, {trial.number: 1}) == {}
    assert [r.rung for r in rung_reports(study.trials[0])] == [1, 2]


def test_a_trial_without_report_is_not_pruned(study: optuna.Study) -> None:
    trial = study.ask()
    assert prune_decisions(study, {trial.number: 1}) == {} and not trial.should_prune()


def test_rungs_that_share_a_step_are_read_back_under_the_number_that_they_were_reported_by() -> None:
    spec = replace(SPEC, eval=replace(SPEC.eval, rungs=5, rung_factor=2.0))
    metrics = {"eval/accuracy": 0.5, "eval/loss": 1.0, "train/loss": 1.0, "train/first_loss": 4.0}
    history = tuple(Point(step=step, metrics=metrics) for step in (1, 2, 3))
    trial = replace(result(history=history, cost=Cost(num_planned_steps=3)), spec=spec)
    assert [reading.rung for reading in reports_of(trial)] == [3, 4]


@pytest.mark.parametrize(
    ("share", "direction", "gone"),
    [(0.5, "maximize", [0, 1]), (0.5, "minimize", [3, 4]), (0.25, "maximize", [0]), (0.75, "maximize", [0, 1, 2])],
)
def test_the_worst_share_of_five_goes_and_the_one_at_the_cut_stays(
    share: float, direction: Literal["maximize", "minimize"], gone: list[int]
) -> None:
    study = optuna.create_study(direction=direction, pruner=PeerPruner(share))
    trials = [study.ask() for _ in range(5)]
    for trial in trials:
        trial.report(float(trial.number), step=1)
    assert [trial.number for trial in trials if trial.should_prune()] == gone


def test_four_peers_are_too_few_for_a_share() -> None:
    study = optuna.create_study(pruner=PeerPruner(0.5))
    trials = [study.ask() for _ in range(4)]
    for trial in trials:
        trial.report(float(trial.number), step=1)
    assert not any(trial.should_prune() for trial in trials)


def test_what_a_complete_trial_reported_does_not_hold_its_end_nor_what_is_no_number() -> None:
    metrics = {"eval/loss": 1.0, "train/loss": 1.0, "train/first_loss": 4.0}
    values = (0.5, float("nan"), 0.7)
    history = tuple(Point(step=10 * n, metrics=metrics | {"eval/accuracy": value}) for n, value in enumerate(values, 1))
    whole = replace(
        result(history=history, cost=Cost(num_planned_steps=30)), spec=replace(SPEC, eval=replace(SPEC.eval, rungs=3))
    )
    assert [(r.rung, r.value) for r in reports_of(whole)] == [(1, 0.5)]
    assert [(r.rung, r.value) for r in reports_of(replace(whole, state=TrialState.PRUNED))] == [(1, 0.5), (3, 0.7)]
