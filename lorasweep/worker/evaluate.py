"""Build a trial's result from a worker's measurements."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from evaluation.metrics import LOSS, LOSS_PER_BYTE, METRICS
from lorasweep.adapters.peft_format import save_adapter
from lorasweep.core.messages import Finished
from lorasweep.core.result import BaseScore, Cost, Point, Sample, TrialResult, TrialState
from lorasweep.core.spec import EvalSpec, digest
from lorasweep.core.trial import Trial
from lorasweep.data.render import TokenRow
from lorasweep.data.tasks import Task
from lorasweep.models.base import Base
from lorasweep.worker.live_trial import LiveTrial
from lorasweep.worker.probes import Probes
from lorasweep.worker.scoring import PackedModel, SuiteScore, score_suite, write

CURVE_POINTS = 50  # training losses kept per trial; enough for a curve, few enough for a tracking server


def rung_metrics(packed: PackedModel, task: Task, spec: EvalSpec) -> list[dict[str, float]]:
    """Return, per slot, the objective and the losses that pruning needs, on the examples of a rung."""
    rows = spread(task.validation[: spec.limit], spec.rung_limit)
    scored = score_suite(packed, rows, tuple({spec.objective: 0, LOSS: 0, LOSS_PER_BYTE: 0}), spec)
    return [result.metrics for result in scored]


def spread(rows: Sequence[TokenRow], limit: int | None) -> Sequence[TokenRow]:
    """Return at most `limit` evenly spaced rows: the file may be sorted by label."""
    if limit is None or limit >= len(rows):
        return rows
    return [rows[i * len(rows) // limit] for i in range(limit)]


def test_metrics(packed: PackedModel, task: Task, spec: EvalSpec) -> dict[str, float]:
    """Return every metric on the test split; empty if there is no test split."""
    if not task.test:
        return {}
    return score_suite(packed, task.test[: spec.limit], spec.all_metrics, spec)[0].metrics


def finish(
    packed: PackedModel, lives: Sequence[LiveTrial], task: Task, probes: Probes, base: BaseScore, peak_bytes: int
) -> list[TrialResult]:
    """Evaluate trials in full after their last step, save their adapters and return their results."""
    assert packed.bank is not None
    spec = lives[0].spec.eval
    rows = task.validation[: spec.limit]
    scored = score_suite(packed, rows, spec.all_metrics, spec)
    forgotten = probes.forgotten(packed.bank, packed.slots)
    outputs = _samples(packed, rows[: spec.num_samples], scored, spec)
    # Saving fails on a full disk, so it must precede the end of the trial.
    sizes = [save_adapter(packed.bank, x.train_state.slot, Path(x.folder) / "adapter") for x in lives]
    results = []
    for live, score, (drops, lost), samples, size in zip(lives, scored, forgotten, outputs, sizes, strict=True):
        live.record({**score.metrics, **lost}, peak_bytes)
        result = _result(live, TrialState.COMPLETE, "", packed.base, peak_bytes)
        results.append(
            replace(
                result,
                scores=score.scores[spec.objective],
                num_tokens=score.num_tokens if METRICS[spec.objective].token_mean else (),
                examples=digest([row.row for row in rows]),
                probes=drops,
                samples=samples,
                base=base,
                cost=replace(result.cost, adapter_bytes=size),
            )
        )
    return results


def final_event(live: LiveTrial, state: TrialState, reason: str, base: Base, peak_bytes: int) -> Finished:
    """Return the event for a live trial that ended before its last step."""
    result = _result(live, state, reason, base, peak_bytes)
    return Finished(number=live.number, attempt=live.trial.attempt, result=result)


def ended(trial: Trial, state: TrialState, reason: str) -> Finished:
    """Return the event for a trial that ended before it got a slot."""
    return Finished(number=trial.number, attempt=trial.attempt, result=TrialResult.of(trial, state, reason))


def _result(live: LiveTrial, state: TrialState, reason: str, base: Base, peak_bytes: int) -> TrialResult:
    return replace(
        TrialResult.of(live.trial, state, reason),
        objective=live.metrics.get(live.spec.eval.objective),
        metrics=live.metrics,
        history=_history(live),
        cost=_cost(live, base, peak_bytes),
        started_s=live.started_s,
    )


def _history(live: LiveTrial) -> tuple[Point, ...]:
    """Merge about `CURVE_POINTS` training losses with the measurements at rungs."""
    losses = live.train_state.losses
    every = max(1, len(losses) // CURVE_POINTS)
    now = time.time()
    curve = [Point(step=s, metrics={"train/step_loss": loss}, time_s=now) for s, loss, _ in losses[::every]]
    return tuple(sorted([*curve, *live.history], key=lambda point: point.step))


def _cost(live: LiveTrial, base: Base, peak_bytes: int) -> Cost:
    x = live.train_state
    trainable = x.slot.num_trainable
    total = base.info.num_parameters + trainable
    return Cost(
        num_steps=x.step,
        num_planned_steps=x.num_steps,
        wall_s=live.wall_s,
        train_s=x.train_s,
        its_per_s=x.step / x.train_s if x.train_s else 0.0,
        tokens_per_s=x.num_tokens / x.train_s if x.train_s else 0.0,
        peak_bytes=peak_bytes,
        shared_by=live.shared_by,
        trainable_parameters=trainable,
        trainable_percent=100 * trainable / total,
    )


def _samples(
    packed: PackedModel, rows: Sequence[TokenRow], scored: Sequence[SuiteScore], spec: EvalSpec
) -> list[tuple[Sample, ...]]:
    """Return the answers to the first rows; generate them if no metric did."""
    promptable = [row for row in rows if row.prompt_length]
    if not promptable:
        return [() for _ in scored]
    if scored[0].outputs:
        texts = [list(score.outputs[: len(rows)]) for score in scored]
    else:
        texts = write(packed, promptable, spec.max_new_tokens)
    return [
        tuple(
            Sample(prompt=r.prompt, reference=r.reference, output=t.strip())
            for r, t in zip(promptable, copy, strict=False)
        )
        for copy in texts
    ]
