"""A worker trains its trials, reports events, and survives failures."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from lorasweep.core.messages import Event, Finished, Measured, Note, Progress, Rung, Score, Scored, Stop
from lorasweep.core.result import TrialResult, TrialState
from lorasweep.executors.local import LocalExecutor
from lorasweep.worker.worker import Worker
from tests.specs import ANSWERS, INTENTS, start, trial, worker


def drain(worker: Worker) -> list[Event]:
    """Advance until no trial is live."""
    events: list[Event] = []
    while worker.live:
        events += worker.advance([])
    return events


def results(events: list[Event]) -> dict[int, TrialResult]:
    return {e.number: e.result for e in events if isinstance(e, Finished)}


def test_a_trial_reports_at_its_rungs_and_ends_complete(tmp_path: Path) -> None:
    w = worker()
    events = w.advance([start(0, tmp_path, trial())]) + drain(w)
    assert [(e.rung, e.point.step) for e in events if isinstance(e, Rung)] == [(1, 2)]
    result = results(events)[0]
    assert result.state is TrialState.COMPLETE
    assert result.objective == result.metrics["accuracy"] == sum(result.scores) / len(result.scores)
    assert [p.step for p in result.history if "eval/accuracy" in p.metrics] == [2, 4]


def test_rungs_may_lie_early_and_ask_fewer_examples(tmp_path: Path) -> None:
    w = worker()
    whole = trial(steps=8)
    spec = replace(whole, eval=replace(whole.eval, rungs=4, rung_factor=2.0, rung_limit=4))
    events = w.advance([start(0, tmp_path, spec)]) + drain(w)
    rungs = [e for e in events if isinstance(e, Rung)]
    assert [(e.rung, e.point.step) for e in rungs] == [(1, 1), (2, 2), (3, 4)]
    assert all((4 * e.value).is_integer() for e in rungs) and {"eval/loss", "train/loss"} <= set(rungs[0].point.metrics)
    assert len(results(events)[0].scores) == 12
    assert spec.fingerprint == whole.fingerprint


def test_results_name_the_examples_that_they_were_scored_on(tmp_path: Path) -> None:
    w = worker()
    fewer = trial(data=replace(INTENTS, validation="demo:intents/validation.csv[:11]"))
    longer = trial(data=replace(INTENTS, max_length=60))
    specs = (trial(), trial(lr=1e-3), longer, fewer)
    events = w.advance([start(0, tmp_path, specs[0])]) + drain(w)
    for number, spec in enumerate(specs[1:], 1):
        events += w.advance([start(number, tmp_path, spec)]) + drain(w)
    first, same, longer_too, other = (results(events)[n].examples for n in range(4))
    assert first == same == longer_too != other


def test_progress_has_step_loss_and_speed(tmp_path: Path) -> None:
    w = worker()
    event = next(e for e in w.advance([start(0, tmp_path, trial())]) if isinstance(e, Progress))
    assert (event.step, event.num_steps) == (1, 4)
    assert event.loss > 0 and event.its_per_s > 0


def test_a_finished_trial_is_measured_in_full(tmp_path: Path) -> None:
    w = worker()
    result = results(w.advance([start(0, tmp_path, trial())]) + drain(w))[0]
    (probe,) = result.probes
    assert probe.drop == pytest.approx(probe.before - probe.after)
    assert result.metrics["probe/facts/accuracy"] == probe.after
    assert [s.reference for s in result.samples] and result.samples[0].prompt.startswith("Text:")
    cost = result.cost
    assert cost.trainable_parameters == 4 * (128 + 128) * 4 * 2  # rank, ends of a projection, layers, projections
    assert cost.adapter_bytes == (tmp_path / "0" / "adapter" / "adapter_model.safetensors").stat().st_size


def test_trials_packed_by_a_worker_end_like_trials_alone(tmp_path: Path) -> None:
    specs = [trial(r=r, lr=lr, steps=steps) for r, lr, steps in ((2, 1e-3, 3), (4, 5e-3, 6), (8, 2e-3, 4))]
    together = worker(3)
    packed = results(together.advance([start(i, tmp_path, s) for i, s in enumerate(specs)]) + drain(together))
    for number, spec in enumerate(specs):
        w = worker(1)
        alone = results(w.advance([start(number, tmp_path / "alone", spec)]) + drain(w))[number]
        assert packed[number].metrics == pytest.approx(alone.metrics, abs=1e-4)


def test_a_stopped_trial_is_pruned_with_the_reason_and_frees_its_slot(tmp_path: Path) -> None:
    w = worker(1)
    while not any(isinstance(e, Rung) for e in w.advance([] if w.live else [start(0, tmp_path, trial())])):
        pass
    (event,) = w.advance([Stop(number=0, reason="below the median", rule="rank")])
    assert isinstance(event, Finished) and event.result.state is TrialState.PRUNED
    assert event.result.stopped_by == "rank"
    assert (event.result.cost.num_steps, event.result.cost.num_planned_steps) == (2, 4)
    assert event.result.reason == "below the median" and event.result.objective is not None
    assert w.trials.session.bank.num_free == 1


def test_a_loss_that_is_not_finite_fails_its_trial_alone(tmp_path: Path) -> None:
    w = worker()
    w.advance([start(0, tmp_path, trial()), start(1, tmp_path, trial(lr=1e-3))])
    w.live[0].train_state.slot.parameters[0].data.fill_(math.nan)
    ended = results(drain(w))
    assert ended[0].state is TrialState.FAILED and "not finite" in ended[0].reason
    assert ended[1].state is TrialState.COMPLETE


def test_an_exception_fails_the_trials_it_hit_and_the_worker_goes_on(tmp_path: Path) -> None:
    w = worker()
    broken = trial(data=replace(INTENTS, train="no/such/file.csv"))
    (event,) = w.advance([start(0, tmp_path, broken)])
    assert isinstance(event, Finished) and event.result.state is TrialState.FAILED
    assert "no such file" in event.result.reason
    assert results(w.advance([start(1, tmp_path, trial())]) + drain(w))[1].state is TrialState.COMPLETE


def test_a_trial_that_cannot_be_set_up_leaves_its_slot_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    w = worker(1)
    with monkeypatch.context() as patch:
        patch.setattr("lorasweep.worker.live_trials.make_train_state", lambda *_: 1 / 0)
        assert results(w.advance([start(0, tmp_path, trial())]))[0].state is TrialState.FAILED
    assert results(w.advance([start(1, tmp_path, trial())]) + drain(w))[1].state is TrialState.COMPLETE


def test_an_evaluation_that_fails_ends_its_own_trials_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are at their last step; the probes of one of them cannot be scored."""
    w = worker()
    other = replace(trial(seed=1), eval=replace(trial().eval, num_samples=1))
    w.advance([start(0, tmp_path, trial()), start(1, tmp_path, other)])
    monkeypatch.setattr(w.trials.session.probes(other), "forgotten", lambda *_: 1 / 0)
    ended = results(drain(w))
    assert (ended[0].state, ended[1].state) == (TrialState.COMPLETE, TrialState.FAILED)


def test_a_kept_adapter_scores_on_the_test_split(tmp_path: Path) -> None:
    w = worker()
    spec = replace(trial(), data=replace(INTENTS, test=INTENTS.validation))
    result = results(w.advance([start(0, tmp_path, spec)]) + drain(w))[0]
    (event,) = [
        e
        for e in w.advance([Score(trial=result.trial, adapter=str(tmp_path / "0" / "adapter"))])
        if isinstance(e, Scored)
    ]
    # The same examples, so the adapter that was read back must answer as the live one did.
    assert event.metrics["accuracy"] == result.metrics["accuracy"]
    assert event.metrics["loss"] == pytest.approx(result.metrics["loss"], abs=1e-5)


def test_a_generation_task_is_scored_by_rouge(tmp_path: Path) -> None:
    w = worker()
    result = results(w.advance([start(0, tmp_path, trial(data=ANSWERS, objective="rougeL"))]) + drain(w))[0]
    assert result.state is TrialState.COMPLETE, result.reason
    assert 0 <= result.metrics["rougeL"] <= 1


def test_a_worker_changes_its_base_between_trials(tmp_path: Path) -> None:
    w = worker()
    first = results(w.advance([start(0, tmp_path, trial())]) + drain(w))[0]
    second = results(w.advance([start(1, tmp_path, trial(precision="nf4"))]) + drain(w))[1]
    assert second.state is TrialState.COMPLETE, second.reason
    assert first.metrics["loss"] != second.metrics["loss"]


def test_activation_checkpointing_gives_the_same_result(tmp_path: Path) -> None:
    plain, frugal = worker(), worker()
    first = results(plain.advance([start(0, tmp_path, trial())]) + drain(plain))[0]
    second = results(frugal.advance([start(0, tmp_path, trial(checkpointing=True))]) + drain(frugal))[0]
    assert second.metrics == pytest.approx(first.metrics, abs=1e-5)
    assert first.fingerprint == second.fingerprint


def test_rows_that_are_cut_are_reported_once(tmp_path: Path) -> None:
    w = worker()
    short = replace(INTENTS, max_length=18)
    events = w.advance([start(0, tmp_path, trial(data=short)), start(1, tmp_path, trial(data=short, seed=1))])
    notes = [e.text for e in events if isinstance(e, Note)]
    assert notes and len(notes) == len(set(notes))


@pytest.mark.slow
@pytest.mark.processes
def test_a_new_bank_is_measured_once_on_its_longest_rows_and_training_does_not_notice(tmp_path: Path) -> None:
    executor = LocalExecutor(worker().settings)  # in this process, an earlier test may have held more memory
    (event,) = (e for e in executor.submit([start(0, tmp_path / "own", trial())]).result() if isinstance(e, Measured))
    executor.close()
    assert event.number == 0 and event.peak_bytes > 0
    w = worker()
    first = w.advance([start(0, tmp_path, trial())])
    rest = w.advance([start(1, tmp_path, trial(seed=1))]) + drain(w)
    assert not any(isinstance(e, Measured) for e in rest)
    probed = worker(1)
    probed.trials.load(trial().model).is_warmed_up = True
    alone = results(probed.advance([start(0, tmp_path / "alone", trial())]) + drain(probed))[0]
    assert results(first + rest)[0].metrics == pytest.approx(alone.metrics, abs=1e-5)
