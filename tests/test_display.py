"""While a sweep runs, people see how far it is."""

from dataclasses import replace

import pytest
from lorasweep.display.standing import Standing, clock
from rich.console import Console

from lorasweep.core.messages import Progress, Rung
from lorasweep.core.result import Cost, Point, TrialResult, TrialState
from lorasweep.core.spec import EvalSpec
from lorasweep.display.display import LineDisplay, LiveDisplay, TimeLeft
from lorasweep.planning.describe import params_text
from lorasweep.planning.expected import Expected
from tests.specs import trial


def result(number: int, objective: float | None, state: TrialState = TrialState.COMPLETE) -> TrialResult:
    metrics = {} if objective is None else {"accuracy": objective}
    return TrialResult(
        number=number, state=state, spec=trial(), params={"lora.r": 4}, fingerprint=str(number), objective=objective,
        metrics=metrics, reason="" if state is TrialState.COMPLETE else "Traceback\nValueError: no",
    )  # fmt: skip


def test_parameters_and_durations_read_as_people_say_them() -> None:
    assert params_text({"lora.r": 8, "train.learning_rate": 0.0005}) == "r=8 learning_rate=0.0005"
    assert clock(125) == "2:05"


def test_the_best_so_far_follows_the_direction() -> None:
    for objective, best in (("accuracy", 1), ("loss", 0)):
        standing = standing_of(objective)
        for number, value in enumerate((0.3, 0.6)):
            standing.finish(result(number, value))
        assert standing.best is not None and standing.best.number == best


def test_the_best_so_far_may_still_train() -> None:
    standing = standing_of("accuracy")
    standing.begin(2, [result(0, 0.3)])
    standing.started(1, {"lora.target_modules": "[q_proj,o_proj]"})
    standing.rung(rung(1, 1, 0.5, step=10))
    assert standing.best_words() == "accuracy 0.5 at step 10 by trial 1 (target_modules=[q_proj,o_proj])"
    standing.finish(result(1, None, TrialState.PRUNED))
    assert standing.best_words().startswith("accuracy 0.3 by trial 0")


def pace(number: int, step: int, num_steps: int = 100, its_per_s: float = 10.0) -> Progress:
    return Progress(number=number, step=step, num_steps=num_steps, loss=1.0, its_per_s=its_per_s)


def rung(number: int, place: int, value: float, step: int, eval_s: float = 0.0) -> Rung:
    return Rung(number=number, rung=place, value=value, point=Point(step=step, metrics={}), eval_s=eval_s)


def standing_of(objective: str, *, has_pruner: bool = False, **changes: float) -> Standing:
    return Standing(objective, Expected(evaluation=EvalSpec(rungs=2), has_pruner=has_pruner, **changes))


def simulated(standing: Standing, monkeypatch: pytest.MonkeyPatch, *, numbers: range, load_s: float = 20.0) -> "Clock":
    """Begin trials that train 100 steps at 10 steps per second, after the base was loaded."""
    now = Clock(monkeypatch)
    standing.begin(len(numbers), [])
    for number in numbers:
        standing.started(number, {})
    now.s += load_s
    return now


class Clock:
    """The time that a display sees."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.s = 1000.0
        monkeypatch.setattr("lorasweep.display.standing.time.monotonic", lambda: self.s)


def test_time_left_is_exact_where_all_goes_on_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten seconds of training, and two evaluations of three seconds: loading the base is no measure of what is left."""
    standing = standing_of("accuracy", rung_cost=30.0, last_cost=30.0)
    now = simulated(standing, monkeypatch, numbers=range(4))
    for step in range(10, 51, 10):
        now.s += 1
        for number in range(4):
            standing.progress(pace(number, step))
    assert standing.left_s() == pytest.approx(5 + 3 + 3, abs=0.3)
    now.s += 3
    for number in range(4):
        standing.rung(rung(number, 1, 0.5, step=50, eval_s=3.0))
    assert standing.left_s() == pytest.approx(5 + 3, abs=0.3)
    assert standing.share() == pytest.approx(8 / 16, abs=0.02)


def test_a_first_step_says_nothing_of_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    standing = standing_of("accuracy")
    now = simulated(standing, monkeypatch, numbers=range(1))
    assert standing.left_s() is None
    now.s += 1
    standing.progress(pace(0, 10))
    assert standing.left_s() is None


def test_the_last_evaluation_is_work_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    standing = standing_of("accuracy", rung_cost=0.0, last_cost=0.0)
    now = simulated(standing, monkeypatch, numbers=range(2))
    for step in (50, 100):
        now.s += 5
        standing.progress(pace(0, step))
    standing.finish(replace(result(0, 0.5), cost=Cost(eval_s=6.0, num_steps=100)))
    now.s += 6
    standing.progress(pace(1, 100))
    assert standing.is_evaluated(pace(1, 100)) and (standing.left_s() or 0) >= 5.9


def test_a_timed_rung_says_what_the_last_evaluation_will_cost() -> None:
    standing = standing_of("accuracy", rung_cost=8.0, last_cost=20.0)
    standing.begin(1, [])
    standing.progress(pace(0, 50))
    standing.rung(rung(0, 1, 0.5, step=50, eval_s=1.6))
    assert (standing.rung_cost, standing.last_cost) == (16.0, 40.0)


def test_duplicates_are_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    standing = standing_of("accuracy")
    now = simulated(standing, monkeypatch, numbers=range(3))
    now.s += 5
    standing.progress(pace(0, 50))
    before = standing.left_s()
    standing.finish(replace(result(1, 0.5), same_as=9))
    standing.finish(replace(result(2, 0.5), same_as=9))
    assert before == pytest.approx(25, abs=0.5) and standing.left_s() == pytest.approx(5, abs=0.5)


def test_trials_that_go_on_from_a_checkpoint_are_not_counted_as_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    standing = standing_of("accuracy")
    now = simulated(standing, monkeypatch, numbers=range(1), load_s=0.0)
    for step in (62, 64):
        now.s += 2
        standing.progress(pace(0, step, its_per_s=1.0))
    assert standing.left_s() == pytest.approx(36, abs=1) and standing.share() == pytest.approx(0.64, abs=0.01)


def test_pruning_is_expected_to_save_work() -> None:
    kept, pruned = standing_of("accuracy"), standing_of("accuracy", has_pruner=True)
    for standing in (kept, pruned):
        standing.begin(3, [])
        standing.progress(pace(0, 10))
        standing.rung(rung(0, 1, 0.5, step=50))
    assert pruned.share() > kept.share()


def test_lines_say_what_starts_reports_and_ends(capsys: pytest.CaptureFixture[str]) -> None:
    display = LineDisplay(standing_of("accuracy"))
    display.spoke_s -= 60
    display.begin(2, [result(0, 0.4)])
    display.started(1, {"lora.r": 4})
    for step in (1, 2):
        display.progress(Progress(number=1, step=step, num_steps=4, loss=1.5, its_per_s=3.0))
    display.rung(Rung(number=1, rung=1, value=0.5, point=Point(step=2, metrics={})))
    display.finished(result(1, None, TrialState.FAILED))
    lines = capsys.readouterr().out.splitlines()
    assert "1 of 2 trials were finished before" in lines[0]
    assert "loading the base" in lines[1]
    assert "r=4" in lines[2] and "step 2/4" in lines[3] and "accuracy 0.5000" in lines[4]
    assert "failed" in lines[5] and lines[5].endswith("ValueError: no")


def test_the_live_display_shows_slots_and_the_best() -> None:
    display = LiveDisplay(standing_of("accuracy"))
    display.console = Console(width=100, record=True, force_terminal=True)
    display.live.console = display.console
    display.begin(3, [])
    display.started(0, {"lora.r": 4, "lora.target_modules": "[q_proj,o_proj]"})
    display.progress(Progress(number=0, step=2, num_steps=4, loss=1.5, its_per_s=3.0))
    display.rung(Rung(number=0, rung=1, value=0.25, point=Point(step=2, metrics={})))
    display.finished(replace(result(1, 0.75), params={"lora.r": 16}))
    display.live.refresh()
    shown = display.console.export_text(clear=False)
    display.end()
    assert "r=4 target_modules=[q_proj,o_proj]" in shown and "1/3 trials" in shown
    assert "2/4" in shown and "0.2500" in shown and "accuracy 0.75 by trial 1 (r=16)" in shown


def test_the_time_left_counts_down_while_an_evaluation_reports_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    display = LiveDisplay(standing_of("accuracy"))
    task = display.bar.tasks[0]
    now = Clock(monkeypatch)
    shown = {}
    for end_s in (1020.0, 1000.0, 990.0):
        display.bar.update(task.id, end_s=end_s)
        shown[end_s] = str(TimeLeft().render(task))
    assert now.s == 1000.0 and shown == {1020.0: "about 0:20 left", 1000.0: "", 990.0: "longer than estimated"}
