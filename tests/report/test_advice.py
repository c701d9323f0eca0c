"""The advice: the recommended configuration, cheaper alternatives, and the certainty."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from lorasweep.core.result import Cost, TrialResult, TrialState
from lorasweep.report.leaderboard import Leaderboard, build_leaderboard

Make = Callable[..., TrialResult]
YES, NO = (1.0,) * 40, (0.0,) * 40
NEARLY = (0.0, *YES[1:])


def advice(*results: TrialResult, **more: Any) -> str:
    return build_leaderboard(results, name="s", question="q", objective="accuracy", **more).recommendation


def sized(result: TrialResult, parameters: int, forgetting: float) -> TrialResult:
    return replace(result, cost=Cost(trainable_parameters=parameters), metrics={"forgetting": forgetting})


def test_it_names_the_winner_by_what_was_swept(trial: Make) -> None:
    text = advice(trial(0, scores=YES, params={"lora.r": 4}), trial(1, scores=NO, params={"lora.r": 8}))
    assert text.startswith("Use trial 0 (r=4): accuracy 1.000 (95% interval 0.912 to 1.000) on validation.")


def test_it_counts_the_trials_that_do_not_differ_from_the_winner(board: Leaderboard) -> None:
    others = sum(row.is_tied_with_best for row in board.ranked) - 1
    assert 0 < others < 12
    expected = f"{others} of the other 12 do not differ significantly from it on the same 150 validation examples"
    assert expected in board.recommendation


def test_the_advice_names_the_test_by_which_the_winner_differs(trial: Make) -> None:
    text = advice(trial(0, scores=YES), trial(1, scores=NO))
    how = "on the same 40 validation examples (all pairs tested together, at the 5 % level)."
    assert f"It differs significantly from the only other one {how}" in text


def test_it_counts_what_was_scored_on_other_examples_as_not_compared(trial: Make) -> None:
    text = advice(trial(0, scores=YES), trial(1, scores=NO), trial(2, scores=NO[:10]))
    assert "the only other one" in text and "1 more could not be compared" in text


def test_the_advice_gives_the_expected_optimism_of_the_best(trial: Make) -> None:
    board = build_leaderboard(
        [trial(n, scores=NEARLY[n:] + NEARLY[:n]) for n in range(5)], name="s", question="q", objective="accuracy"
    )
    assert board.optimism is not None and 0.005 < board.optimism < 0.1
    by = f"{board.optimism:.3f}"
    assert (
        f"Its score is too good by about {by}, because it is the best of 5 (bootstrap over examples)." in board.advice
    )


def test_nothing_was_picked_from_a_single_trial(trial: Make) -> None:
    assert "too good" not in advice(trial(0))


def test_it_offers_the_cheapest_of_the_tied(trial: Make) -> None:
    text = advice(sized(trial(0, scores=YES), 900, 0.05), sized(trial(1, scores=NEARLY), 300, 0.02))
    assert "The smallest of these is trial 1" in text
    assert "300 trainable parameters instead of 900, forgetting +2.0 % instead of +5.0 %" in text


def test_it_offers_the_tied_trial_that_forgets_least(trial: Make) -> None:
    text = advice(sized(trial(0, scores=YES), 300, 0.05), sized(trial(1, scores=NEARLY), 900, -0.01))
    assert "with the least forgetting is trial 1 (r=8): forgetting -1.0 % instead of +5.0 %." in text


def test_it_offers_nothing_that_is_clearly_worse(trial: Make) -> None:
    text = advice(sized(trial(0, scores=YES), 900, 0.05), sized(trial(1, scores=NO), 300, 0.0))
    assert "smallest" not in text and "forgets least" not in text


def test_it_admits_a_single_seed(trial: Make) -> None:
    assert "Each was trained with one seed: the comparison covers the choice of examples" in advice(trial(0))


def test_it_does_not_take_a_repeated_suggestion_for_a_replicate(trial: Make) -> None:
    text = advice(trial(0), trial(1, same_as=0))
    assert "more seed" not in text and "trained again" not in text


def test_it_claims_no_certainty_without_scores_per_example(trial: Make) -> None:
    bare = [trial(n, scores=(), objective=0.5) for n in (0, 1)]
    assert "No other configuration has scores on the same examples, so its lead was not tested." in advice(*bare)


def test_it_gives_the_score_on_the_test_split(trial: Make) -> None:
    assert "it scores 0.250" in advice(trial(0), test_metrics={"accuracy": 0.25})


def test_it_recommends_nothing_when_nothing_was_completed(trial: Make) -> None:
    lost = [trial(n, state=state) for n, state in enumerate((TrialState.FAILED, TrialState.INFEASIBLE))]
    assert advice(*lost).startswith("No trial can be recommended (1 failed, 1 infeasible)")


def test_the_advice_counts_stopped_trials_by_rule_and_the_saved_steps(trial: Make) -> None:
    def stopped(number: int, rule: str, steps: int) -> TrialResult:
        cost = Cost(num_steps=steps, num_planned_steps=100)
        return trial(number, state=TrialState.PRUNED, stopped_by=rule, objective=None, scores=(), cost=cost)

    whole = trial(0, scores=YES, cost=Cost(num_steps=100, num_planned_steps=100))
    text = advice(whole, stopped(1, "rank", 25), stopped(2, "divergence", 10), stopped(3, "rank", 25))
    saved = "3 of 4 trials were stopped early (2 by rank, 1 by divergence), which saved 60 % of the planned steps; "
    assert f"{saved}they are not ranked." in text


def test_steps_that_failed_trials_did_not_take_were_not_saved_by_stopping(trial: Make) -> None:
    cost = Cost(num_steps=0, num_planned_steps=100)
    lost = trial(1, state=TrialState.FAILED, objective=None, scores=(), cost=cost)
    stopped = trial(2, state=TrialState.PRUNED, objective=None, scores=(), cost=replace(cost, num_steps=50))
    whole = trial(0, cost=Cost(num_steps=100, num_planned_steps=100))
    assert "saved 17 % of the planned steps" in advice(whole, lost, stopped)


def test_without_stopped_trials_there_is_no_sentence_about_them(trial: Make) -> None:
    assert "stopped early" not in advice(trial(0, scores=YES))
