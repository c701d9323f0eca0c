"""A metric is one function and one line of the table; all other code uses the table."""

from pathlib import Path

import pytest

from evaluation.answers import Choices, Scored, Texts, TokenLosses
from evaluation.metrics import METRICS, Metric, mean_of
from lorasweep.config.build import build_config
from lorasweep.core.messages import Finished
from lorasweep.core.result import TrialState
from lorasweep.report.leaderboard import build_leaderboard
from tests.settings import minimal
from tests.specs import start, trial, worker


def worst_answer(found: TokenLosses) -> Scored:
    nats = tuple(found.nats_N.tolist())
    return Scored(value=max(nats), scores=nats)


def margin(found: Choices) -> list[float]:
    return [max(logprobs) - sorted(logprobs)[-2] for logprobs in found.logprobs]


def too_many_words(found: Texts) -> list[float]:
    pairs = zip(found.predictions, found.references, strict=True)
    return [float(len(text.split()) - len(reference.split())) for text, reference in pairs]


TOYS = {
    "losses": Metric(direction="minimize", description="worst answer", from_losses=worst_answer, is_mean=False),
    "choices": Metric(direction="maximize", description="lead of the likeliest option", from_choices=mean_of(margin)),
    "texts": Metric(direction="minimize", description="words too many", from_texts=mean_of(too_many_words)),
}


@pytest.mark.parametrize("kind", TOYS)
def test_a_line_in_the_table_makes_a_metric(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METRICS, "toy", TOYS[kind])
    assert build_config(minimal(eval={"objective": "toy", "metrics": ["accuracy"]})).eval.objective == "toy"
    first = worker()
    events = first.advance([start(n, tmp_path, trial(r=4 * (n + 1), objective="toy")) for n in range(2)])
    while first.live:
        events += first.advance([])
    results = [event.result for event in events if isinstance(event, Finished)]
    board = build_leaderboard(results, name="toy", question="", objective="toy")
    assert {result.state for result in results} == {TrialState.COMPLETE}
    values = [row.objective for row in board.rows if row.objective is not None]
    assert len(values) == 2 and values == sorted(values, reverse=TOYS[kind].is_maximized)
    assert all((row.interval is not None) == TOYS[kind].is_mean for row in board.rows)
