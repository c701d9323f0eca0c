"""The base, chance and the majority class are rows of the leaderboard; a trial that is no better is not recommended."""

import csv
import io
from collections.abc import Callable
from typing import Any

import pytest

from lorasweep.core.result import BaseScore, TrialResult
from lorasweep.report.html import to_html
from lorasweep.report.leaderboard import Leaderboard, build_leaderboard
from lorasweep.report.machine import to_csv, to_json
from lorasweep.report.markdown import to_markdown

Make = Callable[..., TrialResult]
YES, NO = (1.0,) * 40, (0.0,) * 40
FEW = (1.0, *NO[1:])


def untouched(scores: tuple[float, ...], **more: Any) -> BaseScore:
    metrics = {"accuracy": sum(scores) / len(scores), "loss": 2.5}
    return BaseScore(metrics=metrics, scores=scores, chance={"accuracy": 0.25}, **more)


def ranked(*results: TrialResult, objective: str = "accuracy") -> Leaderboard:
    return build_leaderboard(results, name="s", question="q", objective=objective)


def test_the_base_is_a_row_without_rank_that_no_count_includes(trial: Make) -> None:
    board = ranked(trial(0, scores=YES, base=untouched(NO)))
    assert [one.name for one in board.references] == ["base", "chance"]
    assert (len(board.rows), len(board.results)) == (1, 1) and board.winner is board.rows[0]
    assert board.references[0].interval is not None and board.references[0].objective == 0.0


def test_a_trial_that_is_clearly_better_than_its_base_is_recommended(trial: Make) -> None:
    board = ranked(trial(0, scores=YES, base=untouched(NO)))
    assert board.is_recommended and board.better_than_base == frozenset({0})
    assert board.advice[0].startswith("Use trial 0")


def test_a_trial_that_is_not_better_than_its_base_is_not_recommended(trial: Make) -> None:
    one, two = (trial(n, scores=FEW[n:] + FEW[:n], base=untouched(NO), metrics={"loss": 2.0 - n}) for n in (0, 1))
    board = ranked(one, two)
    assert not board.is_recommended and board.better_than_base == frozenset()
    assert board.advice[0] == (
        "No trial is significantly better than the untouched base, so none is recommended; the lowest validation loss "
        "is 1.000 (base: 2.500), by trial 1 (r=8)."
    )
    assert "accuracy 0.025 on the same 40 validation examples (base 0.000, chance 0.250)" in board.advice[1]


def test_a_worse_trial_is_not_taken_for_a_better_one(trial: Make) -> None:
    assert ranked(trial(0, scores=NO, base=untouched(YES))).better_than_base == frozenset()


def test_a_trial_that_beats_its_base_but_not_chance_is_not_recommended(trial: Make) -> None:
    some = (1.0,) * 12 + (0.0,) * 28
    board = ranked(trial(0, scores=some, base=untouched(NO)))
    assert board.better_than_base == frozenset({0}) and not board.is_recommended
    assert "No trial is significantly better than guessing" in board.advice[0]


def test_a_trial_that_beats_all_but_the_most_frequent_label_is_not_recommended(trial: Make) -> None:
    board = ranked(trial(0, scores=YES[:30] + NO[:10], base=untouched(NO, majority={"accuracy": 0.7})))
    assert "better than always answering the most frequent training label" in board.advice[0]


def test_results_without_a_base_are_recommended_as_before(trial: Make) -> None:
    board = ranked(trial(0, scores=FEW))
    assert board.is_recommended and board.better_than_base is None and board.references == ()


@pytest.mark.parametrize("write", [to_html, to_markdown])
def test_the_reports_show_the_base_and_chance(write: Callable[[Leaderboard], str], trial: Make) -> None:
    text = write(ranked(trial(0, scores=YES, base=untouched(NO, majority={"accuracy": 0.1}))))
    assert all(name in text for name in ("base", "chance", "majority", "0.250"))


def test_programs_find_the_base_beside_the_trials(trial: Make) -> None:
    board = ranked(trial(0, scores=YES, base=untouched(NO)))
    lines = list(csv.DictReader(io.StringIO(to_csv(board))))
    assert [(line["state"], line["rank"], line["trial"], line["accuracy"]) for line in lines] == [
        ("complete", "1", "0", "1.0"), ("base", "", "", "0.0"), ("chance", "", "", "0.25"),
    ]  # fmt: skip
    found = to_json(board)
    assert [one["name"] for one in found["references"]] == ["base", "chance"]
    assert (found["is_recommended"], found["better_than_base"], len(found["trials"])) == (True, [0], 1)
