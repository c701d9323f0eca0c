"""The display shows the progress of a running sweep."""

from dataclasses import replace

import pytest
from rich.console import Console

from lorasweep.core.messages import Finished, Progress, Rung, SweepEnded, SweepStarted, TrialStarted
from lorasweep.core.result import Cost, Point, TrialResult, TrialState
from lorasweep.core.spec import EvalSpec
from lorasweep.core.trial import Params, Trial
from lorasweep.display.display import LineDisplay, LiveDisplay, TimeLeft
from lorasweep.display.progress import SweepProgress, clock
from lorasweep.planning.expected import Expected
from tests.specs import trial


def result(number: int, objective: float | None, state: TrialState = TrialState.COMPLETE) -> TrialResult:
    metrics = {} if objective is None else {"accuracy": objective}
    return TrialResult(
        number=number, state=state, spec=trial(), params={"lora.r": 4}, objective=objective,
        metrics=metrics, reason="" if state is TrialState.COMPLETE else "Traceback\nValueError: no",
    )  # fmt: skip


def started(number: int, params: Params) -> TrialStarted:
    return TrialStarted(trial=Trial(number=number, params=params, spec=trial()))


def finished(ended: TrialResult) -> Finished:
    return Finished(number=ended.number, result=ended)


def test_parameters_and_durations_are_written_for_people() -> None:
    params: Params = {"lora.r": 8, "train.learning_rate": 0.0005}
    assert Trial(number=0, params=params, spec=trial()).text == "r=8 learning_rate=0.0005"
    assert clock(125) == "2:05"


def test_the_best_so_far_follows_the_direction() -> None:
    for objective, best in (("accuracy", 1), ("loss", 0)):
        progress = progress_of(objective)
        for number, value in enumerate((0.3, 0.6)):
            progress.handle(finished(result(number, value)))
        assert progress.best is not None and progress.best.number == best


def test_the_best_so_far_may_still_train() -> None:
    progress = progress_of("accuracy")
    progress.handle(SweepStarted(num_trials=2, results=[result(0, 0.3)]))
    progress.handle(started(1, {"lora.target_modules": "[q_proj,o_proj]"}))
    progress.handle(rung(1, 1, 0.5, step=10))
    assert progress.best_text() == "accuracy 0.5 at step 10 by trial 1 (target_modules=[q_proj,o_proj])"
    progress.handle(finished(result(1, None, TrialState.PRUNED)))
    assert progress.best_text().startswith("accuracy 0.3 by trial 0")


def pace(number: int, step: int, num_steps: int = 100, its_per_s: float = 10.0) -> Progress:
    return Progress(number=number, step=step, num_steps=num_steps, loss=1.0, its_per_s=its_per_s)


def rung(number: int, place: int, value: float, step: int, eval_s: float = 0.0) -> Rung:
    return Rung(number=number, rung=place, value=value, point=Point(step=step, metrics={}), eval_s=eval_s)


def progress_of(objective: str, *, has_pruner: bool = False, **changes: float) -> SweepProgress:
    return SweepProgress(objective, Expected(evaluation=EvalSpec(rungs=2), has_pruner=has_pruner, **changes))


def simulated(
    progress: SweepProgress, monkeypatch: pytest.MonkeyPatch, *, numbers: range, load_s: float = 20.0
) -> "Clock":
    """Start trials that train 100 steps at 10 steps per second, after the base was loaded."""
    now = Clock(monkeypatch)
    progress.handle(SweepStarted(num_trials=len(numbers), results=[]))
    for number in numbers:
        progress.handle(started(number, {}))
    now.s += load_s
    return now


class Clock:
    """The clock of a display."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.s = 1000.0
        monkeypatch.setattr("lorasweep.display.progress.time.monotonic", lambda: self.s)


def test_time_left_is_exact_at_constant_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten seconds of training, and two evaluations of three seconds: the time for loading the base does not count."""
    progress = progress_of("accuracy", rung_cost=30.0, last_cost=30.0)
    now = simulated(progress, monkeypatch, numbers=range(4))
    for step in range(10, 51, 10):
        now.s += 1
        for number in range(4):
            progress.handle(pace(number, step))
    assert progress.left_s() == pytest.approx(5 + 3 + 3, abs=0.3)
    now.s += 3
    for number in range(4):
        progress.handle(rung(number, 1, 0.5, step=50, eval_s=3.0))
    assert progress.left_s() == pytest.approx(5 + 3, abs=0.3)
    assert progress.share() == pytest.approx(8 / 16, abs=0.02)


def test_the_time_left_is_not_estimated_from_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    progress = progress_of("accuracy")
    now = simulated(progress, monkeypatch, numbers=range(1))
    assert progress.left_s() is None
    now.s += 1
    progress.handle(pace(0, 10))
    assert progress.left_s() is None


def test_the_last_evaluation_is_work_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    progress = progress_of("accuracy", rung_cost=0.0, last_cost=0.0)
    now = simulated(progress, monkeypatch, numbers=range(2))
    for step in (50, 100):
        now.s += 5
        progress.handle(pace(0, step))
    progress.handle(finished(replace(result(0, 0.5), cost=Cost(eval_s=6.0, num_steps=100))))
    now.s += 6
    progress.handle(pace(1, 100))
    assert progress.is_evaluated(pace(1, 100)) and (progress.left_s() or 0) >= 5.9


def test_a_timed_rung_predicts_the_duration_of_the_last_evaluation() -> None:
    progress = progress_of("accuracy", rung_cost=8.0, last_cost=20.0)
    progress.handle(SweepStarted(num_trials=1, results=[]))
    progress.handle(pace(0, 50))
    progress.handle(rung(0, 1, 0.5, step=50, eval_s=1.6))
    assert (progress.rung_cost, progress.last_cost) == (16.0, 40.0)


def test_duplicates_are_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    progress = progress_of("accuracy")
    now = simulated(progress, monkeypatch, numbers=range(3))
    now.s += 5
    progress.handle(pace(0, 50))
    before = progress.left_s()
    progress.handle(finished(replace(result(1, 0.5), same_as=9)))
    progress.handle(finished(replace(result(2, 0.5), same_as=9)))
    assert before == pytest.approx(25, abs=0.5) and progress.left_s() == pytest.approx(5, abs=0.5)


def test_trials_that_go_on_from_a_checkpoint_are_not_counted_as_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    progress = progress_of("accuracy")
    now = simulated(progress, monkeypatch, numbers=range(1), load_s=0.0)
    for step in (62, 64):
        now.s += 2
        progress.handle(pace(0, step, its_per_s=1.0))
    assert progress.left_s() == pytest.approx(36, abs=1) and progress.share() == pytest.approx(0.64, abs=0.01)


def test_pruning_is_expected_to_save_work() -> None:
    kept, pruned = progress_of("accuracy"), progress_of("accuracy", has_pruner=True)
    for progress in (kept, pruned):
        progress.handle(SweepStarted(num_trials=3, results=[]))
        progress.handle(pace(0, 10))
        progress.handle(rung(0, 1, 0.5, step=50))
    assert pruned.share() > kept.share()


def test_lines_show_starts_reports_and_ends(capsys: pytest.CaptureFixture[str]) -> None:
    display = LineDisplay(progress_of("accuracy"))
    display.printed_s -= 60
    display.handle(SweepStarted(num_trials=2, results=[result(0, 0.4)]))
    display.handle(started(1, {"lora.r": 4}))
    for step in (1, 2):
        display.handle(Progress(number=1, step=step, num_steps=4, loss=1.5, its_per_s=3.0))
    display.handle(Rung(number=1, rung=1, value=0.5, point=Point(step=2, metrics={})))
    display.handle(finished(result(1, None, TrialState.FAILED)))
    lines = capsys.readouterr().out.splitlines()
    assert "1 of 2 trials were finished before" in lines[0]
    assert "loading the base" in lines[1]
    assert "r=4" in lines[2] and "step 2/4" in lines[3] and "accuracy 0.5000" in lines[4]
    assert "failed" in lines[5] and lines[5].endswith("ValueError: no")


def test_the_live_display_shows_slots_and_the_best() -> None:
    display = LiveDisplay(progress_of("accuracy"))
    display.console = Console(width=100, record=True, force_terminal=True)
    display.live.console = display.console
    display.handle(SweepStarted(num_trials=3, results=[]))
    display.handle(started(0, {"lora.r": 4, "lora.target_modules": "[q_proj,o_proj]"}))
    display.handle(Progress(number=0, step=2, num_steps=4, loss=1.5, its_per_s=3.0))
    display.handle(Rung(number=0, rung=1, value=0.25, point=Point(step=2, metrics={})))
    display.handle(finished(replace(result(1, 0.75), params={"lora.r": 16})))
    display.live.refresh()
    shown = display.console.export_text(clear=False)
    display.handle(SweepEnded())
    assert "r=4 target_modules=[q_proj,o_proj]" in shown and "1/3 trials" in shown
    assert "2/4" in shown and "0.2500" in shown and "accuracy 0.75 by trial 1 (r=16)" in shown


def test_the_time_left_counts_down_while_an_evaluation_reports_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    display = LiveDisplay(progress_of("accuracy"))
    task = display.bar.tasks[0]
    now = Clock(monkeypatch)
    shown = {}
    for end_s in (1020.0, 1000.0, 990.0):
        display.bar.update(task.id, end_s=end_s)
        shown[end_s] = str(TimeLeft().render(task))
    assert now.s == 1000.0 and shown == {1020.0: "about 0:20 left", 1000.0: "", 990.0: "longer than estimated"}
