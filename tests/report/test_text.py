"""The leaderboard in a terminal."""

from collections.abc import Callable

import pytest
from rich.cells import cell_len
from rich.console import Console

from lorasweep.core.result import TrialResult, TrialState
from lorasweep.report.leaderboard import Leaderboard, build_leaderboard
from lorasweep.report.render import to_text
from lorasweep.report.text import FEWEST_ROWS, advice, rows_that_fit

Make = Callable[..., TrialResult]


def printed(board: Leaderboard, width: int, max_rows: int = 30) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(to_text(board, max_rows=max_rows))
        console.print(advice(board))
    return capture.get()


@pytest.mark.parametrize("width", [40, 80, 100, 160])
def test_no_line_is_wider_than_the_terminal(board: Leaderboard, width: int) -> None:
    assert max(cell_len(line) for line in printed(board, width).splitlines()) <= width


@pytest.mark.parametrize("width", [80, 100, 160])
def test_no_number_is_cut(board: Leaderboard, width: int) -> None:
    assert "…" not in printed(board, width)


def test_the_most_important_columns_stay_in_a_narrow_terminal(board: Leaderboard) -> None:
    header = next(line for line in printed(board, 80).splitlines() if line.startswith("#"))
    assert header.split()[:7] == ["#", "trial", "r", "lora_alpha", "target_modules", "alpha/r", "accuracy"]


def test_it_names_the_columns_left_out_and_where_they_are(board: Leaderboard) -> None:
    text = " ".join(printed(board, 80).split())
    assert "columns hidden at a width of 80 characters" in text and "tokens/s" in text and "leaderboard.html" in text


def test_every_column_is_shown_on_a_wide_screen(board: Leaderboard) -> None:
    assert "left out" not in printed(board, 300)


def test_memory_shows_how_many_trials_shared_it(board: Leaderboard) -> None:
    assert "2.3 GiB (by 6)" in printed(board, 200)


def test_a_traceback_is_shown_by_its_last_line(board: Leaderboard) -> None:
    assert "Failed: trial 6: RuntimeError: the loss is not finite at step 12" in printed(board, 160)


def test_trials_that_ended_alike_share_a_line(board: Leaderboard) -> None:
    assert "Pruned: trials 2, 9, 14: stopped at step 11" in printed(board, 160)


def test_rows_beyond_the_limit_are_counted(board: Leaderboard) -> None:
    assert "13 more rows are in leaderboard.html" in printed(board, 100, max_rows=5)


def test_module_lists_are_not_read_as_markup(trial: Make) -> None:
    results = [trial(0), trial(1)]
    for result, modules in zip(results, ("[bold]", "[q_proj,v_proj]"), strict=True):
        result.params["lora.target_modules"] = modules
    board = build_leaderboard(results, name="[red]", question="q", objective="accuracy")
    assert "[bold]" in printed(board, 100) and "[red]" in printed(board, 100)


def test_a_setting_without_effect_is_a_dash(trial: Make) -> None:
    schedules = ("constant", "linear", "cosine")
    results = [trial(n, params={"train.lr_scheduler_type": s, "train.warmup_steps": n / 10}, cost=trial(0).cost)
               for n, s in enumerate(schedules)]  # fmt: skip
    board = build_leaderboard(results, name="s", question="q", objective="accuracy")
    row = next(line for line in printed(board, 100).splitlines() if " constant " in line)
    assert row.split("constant")[1].split()[0] == "—"


def test_trials_that_one_rule_stopped_share_a_line(trial: Make) -> None:
    def stopped(number: int) -> TrialResult:
        reason = f"rules pruner: accuracy 0.{number} at rung 1"
        return trial(number, state=TrialState.PRUNED, stopped_by="rank", reason=reason, objective=None, scores=())

    board = build_leaderboard([trial(0), stopped(1), stopped(2)], name="s", question="q", objective="accuracy")
    assert "Pruned: trials 1, 2: by rank, the first: rules pruner: accuracy 0.1 at rung 1" in printed(board, 160)


def test_the_table_leaves_space_for_the_advice_on_the_screen(board: Leaderboard) -> None:
    console = Console(width=120, height=40, force_terminal=True, color_system=None)
    last = console.render_lines(advice(board))
    rows = rows_that_fit(board, console, len(last))
    whole = console.render_lines(to_text(board, 120, rows))
    assert FEWEST_ROWS < rows < len(board.rows) and len(whole) + len(last) <= 40
    assert rows_that_fit(board, Console(width=120, height=10, force_terminal=True), 30) == FEWEST_ROWS


def test_the_advice_is_printed_in_full(board: Leaderboard) -> None:
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        console.print(advice(board))
    assert " ".join(board.advice) in " ".join(capture.get().split())
