"""Uploads to MLflow can be repeated, and its page shows a readable table."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lorasweep.config.settings import TrackingSettings
from lorasweep.core.errors import ConfigError
from lorasweep.core.messages import Finished, Rung, Summary, TrialStarted
from lorasweep.core.result import Cost, Point, Sample, TrialResult, TrialState
from lorasweep.core.spec import TrialSpec
from lorasweep.core.trial import Params, Trial
from lorasweep.driver.ledger import Ledger
from lorasweep.testing import tracking_queue
from lorasweep.tracking.base import SweepInfo
from lorasweep.tracking.mlflow import MlflowTracker
from lorasweep.tracking.view import saved_view, view_key
from tests.settings import with_adapter
from tests.specs import trial

pytestmark = pytest.mark.slow

OPENING = SweepInfo(
    config="a: 1",
    tags={"objective": "accuracy"},
    data={"train": "a.csv@123", "probe/facts": "facts.jsonl@456"},
    swept={"lora.r": "4, 8", "lora.lora_alpha": "r, 2r"},
    objective="accuracy",
)


def result(state: TrialState = TrialState.COMPLETE, reason: str = "") -> TrialResult:
    return TrialResult(
        number=0, state=state, spec=trial(), params={"lora.r": 4}, reason=reason, objective=0.5,
        metrics={"accuracy": 0.5, "forgetting": float("nan")}, cost=Cost(peak_bytes=2**30, its_per_s=2.0),
        history=tuple(Point(step=s, metrics={"train/step_loss": 1 / s}) for s in range(1, 1200)),
        samples=(Sample(prompt="p", reference="r", output="o"),), ended_s=1.0,
    )  # fmt: skip


def started(params: Params, spec: TrialSpec) -> TrialStarted:
    return TrialStarted(trial=Trial(number=0, params=params, spec=spec))


def exported(ended: TrialResult) -> Finished:
    return Finished(number=0, result=ended)


def tracker(folder: Path) -> MlflowTracker:
    made = MlflowTracker(TrackingSettings(uri=f"sqlite:///{folder / 'm.db'}"), "rank_alpha", "/runs/rank_alpha-1")
    made.begin(OPENING)
    return made


def test_an_exported_trial_is_one_run_however_often_it_is_exported(in_tmp: Path) -> None:
    for _ in range(2):
        again = tracker(in_tmp)
        again.handle(started({"lora.r": 4}, trial()))
        again.handle(
            Rung(number=0, rung=1, value=0.25, point=Point(step=2, metrics={"eval/accuracy": 0.25}, time_s=3.0))
        )
        again.handle(exported(result()))
    runs = again.client.search_runs([again.experiment], "tags.`lorasweep.kind` = 'trial'")
    assert len(runs) == 1
    data = runs[0].data
    assert data.metrics["accuracy"] == 0.5 and data.metrics["peak_memory_gib"] == 1.0
    assert "forgetting" not in data.metrics  # what was not measured is missing, not zero
    assert data.params["r"] == "4" and data.tags["state"] == "complete"
    for name, count in (("train/step_loss", 1199), ("accuracy", 2)):
        assert len(again.client.get_metric_history(runs[0].info.run_id, name)) == count


def test_states_become_run_states_with_their_reason(in_tmp: Path) -> None:
    made = tracker(in_tmp)
    made.handle(exported(replace(result(TrialState.PRUNED, "rules pruner: number 9 of 9"), stopped_by="rank")))
    run = made.client.get_run(made.children[0].run_id)
    assert run.info.status == "FINISHED" and run.data.tags["state"] == "pruned"
    assert run.data.tags["reason"] == "rules pruner: number 9 of 9"
    assert run.data.tags["stopped_by"] == "rank"


def test_no_metric_has_two_names(in_tmp: Path) -> None:
    made = tracker(in_tmp)
    rung = Point(step=2, metrics={"eval/accuracy": 0.25, "perf/its_per_s": 2.0, "train/loss": 1.0}, time_s=3.0)
    last = replace(rung, step=4, metrics={**rung.metrics, "eval/accuracy": 0.5}, time_s=5.0)
    made.handle(Rung(number=0, rung=1, value=0.25, point=rung))
    made.handle(exported(replace(result(), history=(rung, last))))
    metrics = made.client.get_run(made.children[0].run_id).data.metrics
    assert {"accuracy", "its_per_s", "train/loss"} <= set(metrics) and "objective" not in metrics
    assert not [name for name in metrics if name.startswith(("eval/", "perf/"))]
    history = made.client.get_metric_history(made.children[0].run_id, "accuracy")
    assert [(m.step, m.value) for m in history] == [(2, 0.25), (4, 0.5)]


def test_alpha_is_a_number_beside_the_expression_that_was_swept(in_tmp: Path) -> None:
    made = tracker(in_tmp)
    spec = with_adapter(trial(), r=8, lora_alpha=16.0)
    made.handle(started({"lora.r": 8, "lora.lora_alpha": "2r"}, spec))
    made.handle(exported(replace(result(), spec=spec, params={"lora.r": 8, "lora.lora_alpha": "2r"})))
    params = made.client.get_run(made.children[0].run_id).data.params
    assert (params["lora_alpha"], params["swept/lora_alpha"], params["r"]) == ("16", "2r", "8")


def test_the_parent_run_names_the_swept_settings(in_tmp: Path) -> None:
    for _ in range(2):
        made = tracker(in_tmp)
    params = made.client.get_run(made.parent).data.params
    assert params == {"swept/r": "4, 8", "swept/lora_alpha": "r, 2r"}


def test_the_data_sets_are_the_runs_inputs(in_tmp: Path) -> None:
    made = tracker(in_tmp)
    found = made.client.get_run(made.parent).inputs
    assert found is not None
    inputs = found.dataset_inputs
    assert {(i.dataset.name, i.dataset.digest) for i in inputs} == {("a.csv", "123"), ("facts.jsonl", "456")}


def test_a_saved_view_orders_the_trials_of_one_sweep(in_tmp: Path) -> None:
    made = tracker(in_tmp)
    tags = made.client.get_experiment(made.experiment).tags
    view = json.loads(tags["mlflow.sharedViewState.rank_alpha-1"])
    state = json.loads(view["state"])
    assert made.parent in state["searchFilter"] and state["orderByKey"] == "metrics.`accuracy`"
    assert state["selectedColumns"][:4] == ["params.`r`", "params.`lora_alpha`", "tags.`state`", "metrics.`accuracy`"]
    assert made.page.endswith("/runs?workflowType=machine_learning&viewStateShareKey=rank_alpha-1")


def test_a_smaller_objective_comes_first_where_smaller_is_better() -> None:
    _, value = saved_view("v", "p", "objective", maximize=False, params=[], created_ms=0)
    assert json.loads(json.loads(value)["state"])["orderByAsc"] is True
    assert view_key("my sweep/1") == "my-sweep-1"


def test_a_store_that_cannot_be_opened_names_the_setting(in_tmp: Path) -> None:
    (in_tmp / "m.db").write_text("this is no database")
    with pytest.raises(ConfigError, match=r"tracking\.uri"):
        tracker(in_tmp)


def test_a_refusal_at_the_end_is_not_lost(in_tmp: Path) -> None:
    (in_tmp / "m.db").write_text("this is no database")
    made = MlflowTracker(TrackingSettings(uri=f"sqlite:///{in_tmp / 'm.db'}"), "rank_alpha", "/runs/rank_alpha-1")
    queue, called = tracking_queue(made, Ledger(in_tmp / "run")), list[bool]()
    queue.on_refusal = lambda: called.append(True)
    queue.handle(Summary(note="note", files=[], metrics={}, adapter=None, is_finished=True))
    assert queue.close() == 1
    assert isinstance(queue.refusal, ConfigError) and called == [True]
