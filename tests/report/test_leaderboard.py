"""Ranking: the winner, ties with the winner, and rows without a rank."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from lorasweep.core.result import Cost, Point, TrialResult, TrialState
from lorasweep.report.columns import columns
from lorasweep.report.html import to_html
from lorasweep.report.leaderboard import Leaderboard, build_leaderboard
from lorasweep.report.machine import to_json
from lorasweep.report.markdown import to_markdown
from lorasweep.report.ranking import is_comparable

Make = Callable[..., TrialResult]
YES, NO = (1.0,) * 40, (0.0,) * 40


def ranked(*results: TrialResult, objective: str = "accuracy", **more: Any) -> Leaderboard:
    return build_leaderboard(results, name="s", question="q", objective=objective, **more)


def numbers(board: Leaderboard) -> list[int]:
    return [row.number for row in board.rows]


def test_the_highest_accuracy_comes_first(trial: Make) -> None:
    assert numbers(ranked(trial(0, scores=NO), trial(1, scores=YES))) == [1, 0]


def test_the_lowest_loss_comes_first(trial: Make) -> None:
    board = ranked(trial(0, objective=2.0), trial(1, objective=1.0), objective="loss")
    assert numbers(board) == [1, 0]


def test_equal_scores_are_ordered_by_parameters_and_then_by_number(trial: Make) -> None:
    small, large = Cost(trainable_parameters=10), Cost(trainable_parameters=20)
    assert numbers(ranked(trial(0, cost=large), trial(3, cost=small), trial(2, cost=small))) == [2, 3, 0]


@pytest.mark.parametrize("objective", [None, math.nan, math.inf])
def test_a_diverged_trial_has_a_reason_instead_of_a_rank(trial: Make, objective: float | None) -> None:
    row = ranked(trial(0, objective=objective, scores=()), trial(1)).rows[-1]
    assert (row.number, row.rank, row.objective) == (0, None, None)
    assert "not a finite number" in row.reason


def test_states_follow_the_ranked_in_a_fixed_order(trial: Make) -> None:
    states = [TrialState.FAILED, TrialState.INFEASIBLE, TrialState.PRUNED, TrialState.COMPLETE]
    board = ranked(*(trial(n, state=state) for n, state in enumerate(states)))
    assert numbers(board) == [3, 2, 1, 0]
    assert [row.rank for row in board.rows] == [1, None, None, None]


def test_pruned_trials_are_ordered_by_the_last_objective_they_reported(trial: Make) -> None:
    def pruned(number: int, *values: float) -> TrialResult:
        history = tuple(Point(step=s, metrics={"eval/accuracy": v}) for s, v in enumerate(values))
        return trial(number, state=TrialState.PRUNED, objective=None, scores=(), history=history)

    board = ranked(pruned(0, 0.9, 0.2), pruned(1, 0.1, 0.4))
    assert [(row.number, row.objective) for row in board.rows] == [(1, 0.4), (0, 0.2)]


def test_trials_without_a_significant_difference_are_tied_with_the_best(trial: Make) -> None:
    nearly = (0.0, *YES[1:])
    board = ranked(trial(0, scores=YES), trial(1, scores=nearly), trial(2, scores=NO))
    assert [row.is_tied_with_best for row in board.rows] == [True, True, False]


def test_trials_scored_on_other_examples_are_not_compared(trial: Make) -> None:
    board = ranked(trial(0, scores=YES), trial(1, scores=YES[:10]))
    assert [row.is_tied_with_best for row in board.rows] == [True, False]


def test_an_interval_of_perfect_scores_still_has_width(trial: Make) -> None:
    interval = ranked(trial(0, scores=YES)).rows[0].interval
    assert interval is not None and 0.9 < interval.low < 0.95 and interval.high == pytest.approx(1.0)


def test_an_objective_that_is_no_mean_of_its_scores_has_no_interval_and_a_note(trial: Make) -> None:
    board = ranked(trial(0, scores=YES, objective=0.7), objective="macro_f1")
    assert board.rows[0].interval is None
    assert "macro_f1 cannot be computed from scores per example" in board.notes[-1]


@pytest.mark.parametrize("objective", ["loss", "perplexity"])
def test_a_mean_over_tokens_has_an_interval_and_ties_that_weigh_long_examples(trial: Make, objective: str) -> None:
    tokens = (30, *(1,) * 39)

    def one(number: int, first: float, others: float) -> TrialResult:
        losses = (first, *(others + 0.01 * n for n in range(39)))
        total = sum(loss * num for loss, num in zip(losses, tokens, strict=True)) / sum(tokens)
        found = losses if objective == "loss" else tuple(map(math.exp, losses))
        value = total if objective == "loss" else math.exp(total)
        return trial(number, scores=found, objective=value, num_tokens=tokens)

    board = ranked(one(0, 1.0, 1.0), one(1, 1.0, 2.0), objective=objective)
    interval = board.rows[0].interval
    assert interval is not None and interval.value == pytest.approx(board.rows[0].objective)
    assert interval.low < interval.value < interval.high and not any("no interval" in note for note in board.notes)
    assert not board.rows[1].is_tied_with_best


def test_the_pareto_front_drops_what_is_worse_in_everything(trial: Make) -> None:
    def one(number: int, objective: float, forgetting: float, size: int) -> TrialResult:
        metrics = {"forgetting": forgetting}
        return trial(number, objective=objective, metrics=metrics, cost=Cost(trainable_parameters=size))

    board = ranked(one(0, 0.9, 0.1, 100), one(1, 0.8, 0.2, 200), one(2, 0.7, 0.0, 300))
    assert {row.number for row in board.rows if row.is_pareto} == {0, 2}


def test_the_order_of_the_results_does_not_matter(study: list[TrialResult], board: Leaderboard) -> None:
    again = ranked(*reversed(study))
    assert again.rows == board.rows


def test_provenance_names_every_trial_that_differs(trial: Make) -> None:
    board = ranked(trial(0, provenance={"commit": "a"}), trial(1, provenance={"commit": "b"}))
    assert board.provenance == {"commit": "a, b"}


def test_no_trials_make_an_empty_leaderboard() -> None:
    board = ranked()
    assert (board.rows, board.winner, board.recommendation) == ((), None, "There are no trials yet.")


def test_metrics_of_probes_are_details_and_not_metrics_of_the_trial(board: Leaderboard) -> None:
    assert board.metrics == ("macro_f1", "exact_match", "loss")


def test_the_test_split_ranks_nothing(study: list[TrialResult], board: Leaderboard) -> None:
    assert numbers(ranked(*study, test_metrics={"accuracy": 0.0})) == numbers(board)


def test_a_nan_in_another_metric_does_not_hide_the_trial(trial: Make) -> None:
    board = ranked(replace(trial(0), metrics={"forgetting": math.nan}))
    assert board.rows[0].rank == 1 and board.rows[0].forgetting is None


def test_trials_are_compared_only_on_the_same_examples(trial: Make) -> None:
    one, same, other = (trial(n, examples=name) for n, name in enumerate(("a", "a", "b")))
    assert is_comparable(same, one) and not is_comparable(other, one)


def test_older_results_are_compared_where_the_same_settings_chose_their_examples(trial: Make) -> None:
    one = trial(0)
    other = replace(one, spec=replace(one.spec, data=replace(one.spec.data, template="{text} is")))
    assert is_comparable(trial(1), one) and not is_comparable(other, one)


def test_a_trial_scored_on_other_examples_has_no_rank(trial: Make) -> None:
    board = ranked(*(trial(n, examples=name) for n, name in enumerate("aab")))
    assert [row.rank for row in board.rows] == [1, 2, None]
    assert "different examples" in board.rows[2].reason


LOST = {
    "forgetting": 0.347, "forgetting/low": 0.301, "forgetting/high": 0.39,
    "forgetting_likelihood": 0.05, "forgetting_likelihood/low": 0.04, "forgetting_likelihood/high": 0.06,
}  # fmt: skip


def test_forgetting_is_shown_with_its_interval_apart_from_lost_likelihood(trial: Make) -> None:
    board = ranked(trial(0, metrics=LOST))
    cells = {column.key: column.cell(board.rows[0]) for column in columns(board)}
    assert cells["forgetting"] == "+34.7 % (30.1 to 39.0)"
    assert cells["forgetting_likelihood"] == "+5.0 % (4.0 to 6.0)"
    assert board.metrics == ()
    for text in (to_html(board), to_markdown(board)):
        assert "+34.7 % (30.1 to 39.0)" in text and "likelihood lost" in text
    assert to_json(board)["trials"][0]["metrics"]["forgetting/low"] == 0.301


def test_older_results_without_an_interval_show_their_forgetting(trial: Make) -> None:
    board = ranked(trial(0, metrics={"forgetting": 0.347}))
    assert next(c for c in columns(board) if c.key == "forgetting").cell(board.rows[0]) == "+34.7 %"


def test_a_study_without_probes_has_a_note_on_how_to_set_them(trial: Make) -> None:
    spec = trial(0).spec
    bare = trial(0, spec=replace(spec, eval=replace(spec.eval, probes=())), probes=())
    assert any("no probes are set; set probes=general" in note for note in ranked(bare).notes)
    assert not any("probes" in note for note in ranked(trial(0)).notes)
