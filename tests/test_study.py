"""The study suggests and stores trials, and continues after a restart."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from optuna.trial import TrialState as OptunaState

from lorasweep.config.grammar import parse
from lorasweep.config.settings import Pruner, Sampler, StudySettings
from lorasweep.core.errors import ConfigError
from lorasweep.core.result import Point, TrialState
from lorasweep.study.pruners import PruneDecision, make_pruner, prune_decisions, rung_reports
from lorasweep.study.rules import RungReport
from lorasweep.study.samplers import make_sampler
from lorasweep.study.study import Study
from tests.settings import result, states

SPACE = {
    "lora.r": parse("lora.r", "choice(4,8)"),
    "train.max_steps": parse("train.max_steps", "int(interval(1,64))"),
    "train.learning_rate": parse("train.learning_rate", "tag(log,interval(1e-5,1e-2))"),
}
SMALL = {"lora.r": parse("lora.r", "choice(4,8)")}

Open = Callable[..., Study]


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store without trials to copy, because Optuna takes a second to create one."""
    path = tmp_path_factory.mktemp("store") / "empty.db"
    Study(path, StudySettings(), {}, objective="accuracy", num_rungs=1)
    import sqlite3

    with sqlite3.connect(path) as store:
        for table in ("study_directions", "studies"):
            store.execute(f"DELETE FROM {table}")
    return path


@pytest.fixture
def study(empty: Path, tmp_path: Path) -> Open:
    """Open the study of this test; a second time, the same one."""
    path = tmp_path / "my study #1? %20.db"
    shutil.copy(empty, path)

    def opened(settings: StudySettings | None = None, *, maximize: bool = True, is_small: bool = False) -> Study:
        domains = SMALL if is_small else SPACE
        objective = "accuracy" if maximize else "loss"
        return Study(path, settings or StudySettings(), domains, objective=objective, num_rungs=3)

    return opened


def finished(study: Study, value: float) -> int:
    number, _ = study.ask()
    study.tell(number, result(number, objective=value))
    return number


def reading(value: float, rung: int = 1, eval_loss: float = 1.0) -> RungReport:
    return RungReport(rung=rung, value=value, eval_loss=eval_loss, train_loss=1.0, first_loss=4.0)


def test_a_store_is_made_where_there_is_none(tmp_path: Path) -> None:
    path = tmp_path / "new folder #1? %20" / "study.db"
    Study(path, StudySettings(), SPACE, objective="accuracy", num_rungs=3)
    assert path.is_file()
    assert {file.name for file in path.parent.iterdir()} == {"study.db", "study.db-wal", "study.db-shm"}


def test_a_trial_is_numbered_and_lies_in_the_space(study: Open) -> None:
    opened = study()
    asked = [opened.ask() for _ in range(3)]
    assert [number for number, _ in asked] == [0, 1, 2]
    for _, params in asked:
        assert set(params) == set(SPACE)
        assert params["lora.r"] in (4, 8)
        assert 1e-5 <= float(params["train.learning_rate"]) <= 1e-2


def test_queued_points_come_first_and_once(study: Open) -> None:
    opened = study(is_small=True)
    for _ in range(2):
        opened.enqueue([{"lora.r": 8}, {"lora.r": 4}])
    assert [opened.ask()[1] for _ in range(2)] == [{"lora.r": 8}, {"lora.r": 4}]
    assert states(opened) == {"RUNNING": 2}


def test_waiting_points_were_not_asked_for(study: Open) -> None:
    opened = study(is_small=True)
    opened.enqueue([{"lora.r": 8}, {"lora.r": 4}])
    opened.ask()
    assert opened.num_asked == 1


def test_running_trials_keep_number_and_values_in_the_next_launch(study: Open) -> None:
    first = study()
    finished(first, 0.5)
    running = [first.ask() for _ in range(2)]
    again = study()
    assert again.resume() == running
    again.tell(1, result(1, objective=0.7))
    assert states(again) == {"COMPLETE": 2, "RUNNING": 1}


def test_numbers_go_on_in_the_next_launch(study: Open) -> None:
    first = study()
    assert [finished(first, 0.1), finished(first, 0.2)] == [0, 1]
    second = study()
    assert second.ask()[0] == 2
    assert second.study.best_value == 0.2


def test_a_random_search_does_not_repeat_itself_in_the_next_launch(study: Open) -> None:
    settings = StudySettings(sampler="random")
    first = study(settings)
    before = [first.ask()[1] for _ in range(3)]
    second = study(settings)
    assert not [params for _ in range(3) if (params := second.ask()[1]) in before]


def test_the_same_seed_asks_the_same(empty: Path, tmp_path: Path) -> None:
    asked = []
    for name in ("a.db", "b.db"):
        shutil.copy(empty, tmp_path / name)
        opened = Study(tmp_path / name, StudySettings(seed=3), SPACE, objective="accuracy", num_rungs=3)
        asked.append([opened.ask()[1] for _ in range(3)])
    assert asked[0] == asked[1]


@pytest.mark.parametrize(("maximize", "best"), [(True, 1), (False, 0)])
def test_the_best_trial_follows_the_direction(study: Open, maximize: bool, best: int) -> None:
    opened = study(maximize=maximize)
    finished(opened, 0.1)
    finished(opened, 0.9)
    assert opened.study.best_trial.number == best


@pytest.mark.parametrize(
    ("state", "value", "expected"),
    [
        (TrialState.COMPLETE, 0.5, OptunaState.COMPLETE),
        (TrialState.COMPLETE, float("nan"), OptunaState.FAIL),
        (TrialState.COMPLETE, None, OptunaState.FAIL),
        (TrialState.PRUNED, 0.5, OptunaState.PRUNED),
        (TrialState.INFEASIBLE, None, OptunaState.PRUNED),
        (TrialState.FAILED, None, OptunaState.FAIL),
    ],
)
def test_every_ending_has_its_state(study: Open, state: TrialState, value: float | None, expected: OptunaState) -> None:
    opened = study()
    number, _ = opened.ask()
    opened.tell(number, result(number, state, objective=value, reason="why"))
    [trial] = opened.study.trials
    assert trial.state is expected
    assert trial.user_attrs["reason"] == "why"


def test_what_does_not_fit_breaks_a_constraint_and_is_never_best(study: Open) -> None:
    opened = study()
    finished(opened, 0.1)
    number, _ = opened.ask()
    opened.tell(number, result(number, TrialState.INFEASIBLE))
    assert [trial.constraints["memory"] > 0 for trial in opened.study.trials] == [False, True]
    assert opened.study.best_trial.number == 0


def test_a_second_tell_changes_nothing(study: Open) -> None:
    opened = study()
    number = finished(opened, 0.5)
    opened.tell(number, result(number, TrialState.FAILED))
    assert (states(opened), opened.study.best_value) == ({"COMPLETE": 1}, 0.5)


def test_an_incomplete_tell_is_repeated(study: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = study()
    number, _ = opened.ask()
    with monkeypatch.context() as patch:
        patch.setattr(opened.study, "tell", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            opened.tell(number, result(number, objective=0.5))
    again = study()
    again.tell(number, result(number, objective=0.5))
    assert (states(again), again.study.best_value) == ({"COMPLETE": 1}, 0.5)


def test_a_worse_trial_is_given_up_at_its_rung_though_none_is_complete(study: Open) -> None:
    opened = study(StudySettings(pruner="median"))
    numbers = [opened.ask()[0] for _ in range(6)]
    for number, value in zip(numbers, (0.8, 0.7, 0.9, 0.85, 0.95, 0.1), strict=True):
        opened.report(number, reading(value))
    assert list(prune_decisions(opened.study, dict.fromkeys(numbers, 1))) == [0, 1, 5]


def test_the_best_is_not_given_up_where_less_is_better(study: Open) -> None:
    opened = study(StudySettings(pruner="median"), maximize=False)
    numbers = [opened.ask()[0] for _ in range(6)]
    for number, value in zip(numbers, (0.8, 0.8, 0.9, 0.9, 0.9, 0.1), strict=True):
        opened.report(number, reading(value))
    assert list(prune_decisions(opened.study, dict.fromkeys(numbers, 1))) == [2, 3, 4]


def test_few_peers_are_no_reason_to_stop(study: Open) -> None:
    opened = study(StudySettings(pruner="median"))
    numbers = [opened.ask()[0] for _ in range(3)]
    for number, value in zip(numbers, (0.9, 0.9, 0.1), strict=True):
        opened.report(number, reading(value))
    assert prune_decisions(opened.study, dict.fromkeys(numbers, 1)) == {}


def test_a_study_that_was_lost_is_filled_from_the_results(study: Open) -> None:
    opened = study()
    _, params = opened.ask()
    opened.restore({2: replace(result(2, objective=0.5), params=params)})
    assert opened.study.best_trial.number == 2


def test_a_finished_trial_without_its_result_is_queued_again(study: Open) -> None:
    opened = study()
    number = finished(opened, 0.5)
    opened.restore({})
    assert (opened.num_queued, opened.num_asked) == (1, 0)
    again, params = opened.ask()
    assert again != number and params == opened.study.trials[number].params


def test_a_trial_that_was_being_drawn_when_its_driver_died_is_drawn_to_its_end(study: Open) -> None:
    first = study()
    first.enqueue([{"lora.r": 8, "train.max_steps": 5, "train.learning_rate": 1e-3}])
    for _ in range(2):  # one from the queue, one that the sampler draws
        torn = first.study.ask()
        torn.suggest_categorical("lora.r", (4, 8))
    again = study()
    again.restore({})
    [(number, queued), (other, drawn)] = again.resume()
    assert (number, queued) == (0, {"lora.r": 8, "train.max_steps": 5, "train.learning_rate": 1e-3})
    assert other == 1 and set(drawn) == set(SPACE)
    again.tell(0, result(0, objective=0.7))
    assert states(again) == {"COMPLETE": 1, "RUNNING": 1} and again.num_lost == 0


def test_a_trial_whose_drawing_failed_is_the_next_that_is_asked(study: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = study()
    with monkeypatch.context() as patch:
        patch.setattr(type(opened.study.sampler), "infer_relative_search_space", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            opened.ask()
    assert [opened.ask()[0] for _ in range(2)] == [0, 1]
    assert states(opened) == {"RUNNING": 2} and opened.num_asked == 2


def test_a_study_that_was_lost_keeps_every_constraint(study: Open) -> None:
    """A sampler that models the constraint needs it for every trial."""
    opened = study(StudySettings(sampler="gp"), is_small=True)
    opened.restore({n: replace(result(n, objective=0.1 * n), params={"lora.r": 4}) for n in range(12)})
    assert {tuple(t.constraints) for t in opened.study.trials} == {("memory",)}
    finished(opened, 0.3)
    assert opened.ask()[0] == 13


def raced(study: Study) -> list[int]:
    """Let six trials report at a rung, the first with the worst value."""
    numbers = [study.ask()[0] for _ in range(6)]
    for number in numbers:
        study.report(number, reading(0.1 * number, eval_loss=2 - 0.1 * number))
    return numbers


def test_reports_for_pruning_survive_the_process(study: Open) -> None:
    raced(study(StudySettings(pruner="rules")))
    again = study(StudySettings(pruner="rules"))
    again.resume()
    found = prune_decisions(again.study, dict.fromkeys(range(6), 1))
    assert list(found) == [0, 1, 2]
    assert found[0] == PruneDecision(
        rule="rank", reason="number 6 of 6 by the objective and 6 by validation loss, and the best 3 go on"
    )


def test_a_trial_that_begins_again_may_report_the_same_once_more(study: Open) -> None:
    opened = study(StudySettings(pruner="rules"))
    raced(opened)
    opened.report(3, reading(0.3, eval_loss=1.7))
    assert list(prune_decisions(opened.study, {3: 1, 0: 1})) == [0]


def test_a_study_that_was_lost_knows_again_what_trials_reported(study: Open) -> None:
    def point(step: int, value: float) -> Point:
        metrics = {"eval/accuracy": value, "eval/loss": 1.0, "train/loss": 1.0, "train/first_loss": 4.0}
        return Point(step=step, metrics=metrics)

    opened = study(StudySettings(pruner="rules"), is_small=True)
    history = (point(2, 0.3), Point(step=3, metrics={"train/step_loss": 1.0}), point(4, 0.6))
    opened.restore({
        0: result(0, objective=0.6, history=history),
        1: result(1, TrialState.PRUNED, history=history[:1], stopped_by="rank"),
    })  # fmt: skip
    assert [t.intermediate_values for t in opened.study.trials] == [{1: 0.3}, {1: 0.3}]
    assert [rung_reports(t) for t in opened.study.trials] == [(reading(0.3),), (reading(0.3),)]


def test_the_rule_that_stopped_a_trial_is_kept(study: Open) -> None:
    opened = study()
    number, _ = opened.ask()
    opened.tell(number, result(number, TrialState.PRUNED, reason="why", stopped_by="rank"))
    assert opened.study.trials[0].user_attrs["stopped_by"] == "rank"


def test_an_objective_that_is_no_number_is_not_reported(study: Open) -> None:
    opened = study()
    number, _ = opened.ask()
    opened.report(number, reading(float("nan")))
    assert opened.study.trials[0].intermediate_values == {}


@pytest.mark.parametrize("name", [s for s in get_args(Sampler) if s != "cmaes"])
def test_every_sampler_suggests_again_after_a_tell(name: Sampler, study: Open) -> None:
    opened = study(StudySettings(sampler=name))
    assert [finished(opened, value) for value in (0.1, 0.3, 0.2)] == [0, 1, 2]


def test_a_sampler_without_its_package_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cmaes", None)
    with pytest.raises(ConfigError, match=r"study.sampler: cmaes needs a package .* pip install 'lorasweep\[cmaes\]'"):
        make_sampler(StudySettings(sampler="cmaes"), 0)


def test_cmaes_asks_where_its_package_is_there(study: Open) -> None:
    pytest.importorskip("cmaes")
    assert finished(study(StudySettings(sampler="cmaes")), 0.1) == 0


@pytest.mark.parametrize("name", get_args(Pruner))
def test_every_pruner_can_be_made(name: Pruner) -> None:
    assert make_pruner(StudySettings(pruner=name), 3)
