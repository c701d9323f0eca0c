"""While a sweep runs, people see how far it is."""

from dataclasses import replace

import pytest
from rich.console import Console

from lorasweep.display import LineDisplay, LiveDisplay, Standing, clock, words
from lorasweep.result import Point, Progress, Rung, TrialResult, TrialState
from tests.specs import trial


def result(number: int, objective: float | None, state: TrialState = TrialState.COMPLETE) -> TrialResult:
    metrics = {} if objective is None else {"accuracy": objective}
    return TrialResult(
        number=number, state=state, spec=trial(), params={"lora.r": 4}, fingerprint=str(number), objective=objective,
        metrics=metrics, reason="" if state is TrialState.COMPLETE else "Traceback\nValueError: no",
    )  # fmt: skip


def test_parameters_and_durations_read_as_people_say_them() -> None:
    assert words({"lora.r": 8, "train.learning_rate": 0.0005}) == "r=8 learning_rate=0.0005"
    assert clock(125) == "2:05"


def test_the_best_so_far_follows_the_direction() -> None:
    for objective, best in (("accuracy", 1), ("loss", 0)):
        standing = Standing(objective)
        for number, value in enumerate((0.3, 0.6)):
            standing.finish(result(number, value))
        assert standing.best is not None and standing.best.number == best


def test_time_left_counts_started_trials_too() -> None:
    standing = Standing("accuracy")
    standing.begin(4, [])
    assert standing.left_s() is None
    standing.progress(Progress(number=0, step=5, num_steps=10, loss=1.0, its_per_s=1.0))
    standing.began_s -= 10
    assert standing.left_s() == pytest.approx(70, rel=0.05)


def test_lines_say_what_starts_reports_and_ends(capsys: pytest.CaptureFixture[str]) -> None:
    display = LineDisplay("accuracy")
    display.spoke_s -= 60
    display.begin(2, [result(0, 0.4)])
    display.started(1, {"lora.r": 4})
    for step in (1, 2):
        display.progress(Progress(number=1, step=step, num_steps=4, loss=1.5, its_per_s=3.0))
    display.rung(Rung(number=1, rung=1, value=0.5, point=Point(step=2, metrics={})))
    display.finished(result(1, None, TrialState.FAILED))
    lines = capsys.readouterr().out.splitlines()
    assert "1 of 2 trials were finished before" in lines[0]
    assert "r=4" in lines[1] and "step 2/4" in lines[2] and "accuracy 0.5000" in lines[3]
    assert "failed" in lines[4] and lines[4].endswith("ValueError: no")


def test_the_live_display_shows_slots_and_the_best() -> None:
    display = LiveDisplay("accuracy")
    display.console = Console(width=100, record=True, force_terminal=True)
    display.live.console = display.console
    display.begin(3, [])
    display.started(0, {"lora.r": 4})
    display.progress(Progress(number=0, step=2, num_steps=4, loss=1.5, its_per_s=3.0))
    display.rung(Rung(number=0, rung=1, value=0.25, point=Point(step=2, metrics={})))
    display.finished(replace(result(1, 0.75), params={"lora.r": 16}))
    display.live.refresh()
    shown = display.console.export_text(clear=False)
    display.end()
    assert "2/4" in shown and "0.2500" in shown and "accuracy 0.75 by trial 1 (r=16)" in shown
