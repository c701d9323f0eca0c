"""Results that are not finite and malformed rows are reported; neither is ranked."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from lorasweep.cli import main
from lorasweep.core.result import TrialState
from lorasweep.planning.plan import Plan
from tests.faults.scenes import odd_values
from tests.faults.stage import Play
from tests.faults.sweeps import FAKE, Notes, driver_of, results
from tests.settings import result
from tests.test_run import board, states


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize("objective", ["accuracy", "loss"])
def test_a_result_that_is_not_a_number_is_not_ranked_and_does_not_win(
    objective: str, in_tmp: Path, staged: Callable[..., Play]
) -> None:
    """An infinite accuracy does not win, and neither does a loss of minus infinity."""
    odd = (float("nan"), float("inf"), float("-inf"))
    play = staged(*FAKE, "study.trials=6", f"eval.objective={objective}", scene=partial(odd_values, odd))
    assert play.code() == 0, play.text
    trials = {t["trial"]: t for t in board(in_tmp)["trials"]}
    assert [trials[n]["rank"] is None for n in range(6)] == [True] * 3 + [False] * 3
    assert sorted(states(in_tmp)) == ["COMPLETE"] * 3 + ["FAIL"] * 3
    assert len(results(in_tmp)) == 6


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), float("-inf")])
def test_the_winner_has_a_number(odd: float, plan: Plan, tmp_path: Path) -> None:
    driver = driver_of(plan, tmp_path, Notes())
    for number, value in enumerate((odd, 0.5, odd)):
        spec = replace(driver.plan.trials[0].spec)
        driver.ledger.write(replace(result(number, TrialState.COMPLETE, objective=value), spec=spec))
    winner = driver.recorder.winner()
    assert winner is not None and winner.result.number == 1


def rows(num_bad: int) -> str:
    """Return two hundred rows with some malformed rows among them."""
    good = [f'{{"text": "say {i}", "label": "l{i % 2}"}}' for i in range(200)]
    for i in range(num_bad):
        good[i * 200 // num_bad] = '{"text": "say'
    return "\n".join(good)


ROWS = ("data=classification", "data.train=rows.jsonl", "train.max_steps=1", "eval.rungs=1", "probes=none",
        "tracking=none")  # fmt: skip


def test_a_hundredth_of_broken_rows_is_left_out_and_reported(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("rows.jsonl").write_text(rows(2))
    assert main(list(ROWS)) == 0
    said = capsys.readouterr().out
    assert [f"left out: rows.jsonl:{line}: not JSON" in said for line in (1, 2, 101)] == [True, False, True]


def test_half_of_broken_rows_are_refused_by_their_lines(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("rows.jsonl").write_text(rows(100))
    assert main(list(ROWS)) == 78
    output = capsys.readouterr().err
    assert "rows.jsonl: 100 malformed rows" in output and "rows.jsonl:3: not JSON" in output and "and 95 more" in output
    assert [p.name for p in in_tmp.iterdir()] == ["rows.jsonl"]
