"""The files: Markdown, CSV and JSON; all four formats are deterministic."""

import csv
import io
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lorasweep.core.result import TrialResult
from lorasweep.report import write_reports
from lorasweep.report.leaderboard import Leaderboard, build_leaderboard
from lorasweep.report.render import FILES, to_csv, to_json, to_markdown
from tests.report.conftest import REAL

Make = Callable[..., TrialResult]


def hostile(trial: Make, text: str) -> Leaderboard:
    result = replace(trial(0), reason=text, params={"lora.r": 8, "model.id": text})
    other = replace(trial(1), params={"lora.r": 8, "model.id": "demo"})
    return build_leaderboard([result, other], name=text, question=text, objective="accuracy", notes=[text])


def test_every_form_is_written(board: Leaderboard, tmp_path: Path) -> None:
    paths = write_reports(board, tmp_path / "a folder")
    assert [path.name for path in paths] == [
        "leaderboard.md", "leaderboard.csv", "leaderboard.json", "leaderboard.html"]  # fmt: skip
    assert all(path.stat().st_size > 1000 for path in paths)


@pytest.mark.parametrize("name", FILES)
def test_the_same_leaderboard_gives_the_same_bytes(study: list[TrialResult], board: Leaderboard, name: str) -> None:
    again = build_leaderboard(
        study[::-1], name=board.name, question=board.question, objective="accuracy",
        test_metrics=board.test_metrics, notes=board.notes)  # fmt: skip
    assert FILES[name](again) == FILES[name](board)


@pytest.mark.parametrize("name", FILES)
def test_an_empty_study_can_be_written(name: str) -> None:
    board = build_leaderboard([], name="s", question="q", objective="accuracy")
    assert FILES[name](board)


@pytest.mark.parametrize("name", FILES)
def test_half_a_surrogate_pair_breaks_no_file(trial: Make, name: str) -> None:
    assert FILES[name](hostile(trial, "bad \ud800 text")).encode()


@pytest.mark.parametrize("text", ["=HYPERLINK(1)", "+1+cmd", "-2+3", "@SUM(A1)", "\t=1", " =1", "\n=1"])
def test_no_csv_cell_of_text_is_read_as_a_formula(trial: Make, text: str) -> None:
    (row, _) = csv.DictReader(io.StringIO(to_csv(hostile(trial, text))))
    assert row["model.id"] == f"'{text}" and row["reason"] == f"'{text}"


@pytest.mark.parametrize("value", [-0.5, "-1e-3", "+2"])
def test_csv_cells_that_hold_numbers_stay_numbers(trial: Make, value: float | str) -> None:
    results = [replace(trial(0), params={"lora.r": 8, "train.x": value}), trial(1, params={"lora.r": 4})]
    board = build_leaderboard(results, name="s", question="q", objective="accuracy")
    (row, _) = csv.DictReader(io.StringIO(to_csv(board)))
    assert row["train.x"] == str(value)


def test_every_markdown_row_has_as_many_cells_as_the_header(board: Leaderboard) -> None:
    table = [line for line in to_markdown(board).splitlines() if line.startswith("|")]
    assert len(table) == 20
    assert {line.count("|") for line in table} == {table[0].count("|")}


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a|b", "a\\|b"), ("<script>", "&lt;script&gt;"), ("[a](javascript:b)", "\\[a](javascript:b)"), ("a\nb", "a b")],
)
def test_markdown_shows_what_a_user_wrote_as_it_is(trial: Make, text: str, shown: str) -> None:
    assert to_markdown(hostile(trial, text)).startswith(f"# {shown}\n\n{shown}\n")


def test_csv_has_a_line_per_trial_with_plain_numbers_and_full_names(board: Leaderboard) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(board))))
    assert len(rows) == 18
    assert float(rows[0]["accuracy"]) == board.rows[0].objective
    assert rows[0]["lora.r"] == "16" and rows[0]["peak_bytes"] == str(int(2.3 * 2**30))


def test_csv_keeps_a_reason_with_lines_and_commas_in_one_cell(board: Leaderboard) -> None:
    rows = {row["trial"]: row for row in csv.DictReader(io.StringIO(to_csv(board)))}
    assert rows["6"]["reason"] == board.rows[-1].reason


def test_json_holds_what_the_tables_leave_out(board: Leaderboard) -> None:
    whole = json.loads(json.dumps(to_json(board), allow_nan=False))
    first = whole["trials"][0]
    assert [probe["drop"] for probe in first["probes"]] == [probe.drop for probe in REAL.probes]
    assert first["interval"][0] < first["objective"] < first["interval"][1]
    assert whole["recommendation"].startswith("Use trial") and whole["test_metrics"]["accuracy"] == 0.827


def test_json_writes_what_is_no_number_as_null(trial: Make) -> None:
    board = build_leaderboard([trial(0, metrics={"loss": math.inf})], name="s", question="q", objective="accuracy")
    assert to_json(board)["trials"][0]["metrics"] == {"loss": None}
