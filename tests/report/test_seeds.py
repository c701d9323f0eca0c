"""Trials that differ only in their seed are one row; winner, adapter and test score belong to one trial."""

from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest

from lorasweep.core.result import Cost, TrialResult, TrialState
from lorasweep.report.figures import percent
from lorasweep.report.leaderboard import Leaderboard, build_leaderboard
from lorasweep.report.render import FILES, to_csv, to_json
from lorasweep.study.selection import in_order, winner

Make = Callable[..., TrialResult]
HALF = (1.0, 0.0) * 20


def seeded(trial: Make, number: int, rank: int, seed: int, **changes: object) -> TrialResult:
    result = trial(number, params={"lora.r": rank, "train.seed": seed}, **changes)
    return replace(result, spec=replace(result.spec, train=replace(result.spec.train, seed=seed)))


def scores(rate: float, number: int) -> tuple[float, ...]:
    random = Random(number)
    return tuple(float(random.random() < rate) for _ in range(100))


@pytest.fixture
def board(trial: Make) -> Leaderboard:
    """Two ranks with three seeds each; the best single trial belongs to neither the better rank nor a first seed."""
    rates = {(4, 0): 0.6, (4, 1): 0.6, (4, 2): 0.95, (8, 0): 0.8, (8, 1): 0.85, (8, 2): 0.9}
    results = [
        seeded(trial, n, rank, seed, scores=scores(rate, n)) for n, ((rank, seed), rate) in enumerate(rates.items())
    ]
    return ranked(results)


def ranked(results: list[TrialResult]) -> Leaderboard:
    return build_leaderboard(results, name="s", question="q", objective="accuracy", test_metrics={"accuracy": 0.8})


def test_a_row_is_the_mean_of_its_seeds_with_their_spread(board: Leaderboard) -> None:
    first, second = board.rows
    assert (first.numbers, second.numbers) == ((3, 4, 5), (0, 1, 2))
    values = [sum(scores(rate, n)) / 100 for n, rate in ((3, 0.8), (4, 0.85), (5, 0.9))]
    assert first.objective == pytest.approx(sum(values) / 3)
    assert first.spread == pytest.approx((sum((v - sum(values) / 3) ** 2 for v in values) / 2) ** 0.5)


def test_the_adapter_is_the_first_seeds_and_not_the_best_ones(board: Leaderboard) -> None:
    assert board.winner is not None and board.winner.number == 3
    assert "The adapter comes from trial 3 (seed=0, accuracy" in board.recommendation
    assert "the adapter of trial 3 scores 0.800" in board.recommendation


def test_the_seed_is_no_setting_of_the_advice(board: Leaderboard) -> None:
    assert board.swept == ("lora.r",) and "train.seed" not in board.fixed
    assert board.advice[0].startswith("Use trials 3, 4, 5 (r=8): accuracy ")
    assert "over examples and seeds" in board.advice[0] and "mean of 3 seeds" in board.advice[0]


def test_one_trial_with_three_seeds_needs_no_other_setting(trial: Make) -> None:
    board = ranked([seeded(trial, n, 8, n, scores=HALF) for n in range(3)])
    assert board.advice[0].startswith("Use trials 0, 1, 2 (r=8): accuracy 0.500")
    assert "No other configuration was completed" in board.recommendation


def test_seeds_widen_the_interval(trial: Make, board: Leaderboard) -> None:
    single = ranked([trial(0, scores=scores(0.7, 0) * 3)]).rows[0].interval
    several = board.rows[1].interval
    assert single is not None and several is not None
    assert several.high - several.low > 2 * (single.high - single.low)


def test_settings_that_differ_no_more_than_their_seeds_are_tied(board: Leaderboard) -> None:
    assert board.rows[1].is_tied_with_best
    assert "from it on the same 100 validation examples and over seeds" in board.recommendation


def test_seeds_that_were_stopped_are_counted_and_named(trial: Make) -> None:
    stopped = seeded(trial, 1, 8, 1, state=TrialState.PRUNED, objective=0.1, scores=(), reason="rules pruner")
    board = ranked([seeded(trial, 0, 8, 0), stopped, seeded(trial, 2, 8, 2)])
    assert [(row.numbers, row.num_seeds) for row in board.rows] == [((0, 2), 2)]
    assert "1 of 3 trials were stopped early" in board.recommendation
    assert (
        "1 trial of ranked rows did not complete: the means over the other seeds may be too good."
        in board.recommendation
    )
    assert "rules pruner" in FILES["leaderboard.html"](board)


def test_a_winner_with_fewer_seeds_than_others_is_reported(trial: Make) -> None:
    board = ranked([seeded(trial, 0, 4, 0), seeded(trial, 1, 8, 0, scores=HALF), seeded(trial, 2, 8, 1, scores=HALF)])
    assert "The winner completed 1 seed, others up to 2." in board.recommendation
    assert "bootstrap over" not in board.recommendation  # it has different examples


def test_two_trials_with_one_seed_are_two_rows(trial: Make) -> None:
    assert len(ranked([trial(0), trial(1)]).rows) == 2


SHOWN = {
    "leaderboard.md": "| **3, 4, 5** |",
    "leaderboard.csv": ",3 4 5,",
    "leaderboard.json": '"trials": [\n    3,\n    4,\n    5\n   ]',
    "leaderboard.html": 'data-sort="3">3, 4, 5</td>',
}


@pytest.mark.parametrize("name", FILES)
def test_every_form_shows_the_seeds(board: Leaderboard, name: str) -> None:
    assert SHOWN[name] in FILES[name](board)


def test_a_mean_of_forgetting_over_seeds_has_no_empty_interval(board: Leaderboard) -> None:
    assert f"<dt>forgetting</dt><dd>{percent(board.rows[0].forgetting)}<small></small></dd>" in FILES[
        "leaderboard.html"
    ](board)


def test_json_holds_every_trial_and_every_row(board: Leaderboard) -> None:
    whole = to_json(board)
    assert [trial["trial"] for trial in whole["trials"]] == [3, 4, 5, 0, 1, 2]
    assert [row["trials"] for row in whole["rows"]] == [[3, 4, 5], [0, 1, 2]]
    assert whole["optimism"] == board.optimism and whole["winner"] == 3
    assert len(to_csv(board).splitlines()) == 3


def test_ties_of_the_objective_are_broken_by_validation_loss_then_size_then_number(trial: Make) -> None:
    def one(number: int, loss: float, size: int) -> TrialResult:
        cost = Cost(trainable_parameters=size)
        return trial(number, scores=HALF, metrics={"accuracy": 0.5, "loss": loss}, cost=cost)

    results = [one(0, 1.0, 5), one(1, 0.9, 9), one(2, 1.0, 4), one(3, 1.0, 4)]
    assert [found.result.number for found in in_order(results, "accuracy")[0]] == [1, 2, 3, 0]
    assert [row.number for row in ranked(results).rows] == [1, 2, 3, 0]


def test_ranking_and_winner_agree_in_random_studies(trial: Make) -> None:
    random = Random(3)
    for _ in range(30):
        results = [
            seeded(trial, n, random.choice((4, 8)), random.randrange(3), scores=scores(random.random(), n))
            for n in range(9)
        ]
        best, board = winner(results, "accuracy"), ranked(results)
        assert best is not None and board.winner is not None and best.result == board.winner.result
