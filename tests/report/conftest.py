"""Trials made from a recorded one, and a study of 18, 3 ranks x 3 alphas x 2 module sets, with every state."""

import random
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from lorasweep.core.result import Cost, Point, TrialResult, TrialState
from lorasweep.core.spec import TrialSpec
from lorasweep.report.leaderboard import Leaderboard, build_leaderboard
from tests.report.recorded import recorded
from tests.settings import with_adapter

Make = Callable[..., TrialResult]
REAL = recorded()
MODULES = {"qv": ("q_proj", "v_proj"), "attention": ("k_proj", "o_proj", "q_proj", "v_proj")}
NOTE = "baseline 0.270 (95% from 0.190) is not above chance 0.250"


def spec_of(params: dict[str, Any]) -> TrialSpec:
    """Return the recorded trial's settings with these of a sweep."""
    rank = params.get("lora.r", 8)
    modules = MODULES[params.get("lora.target_modules", "qv")]
    train = replace(
        REAL.spec.train,
        learning_rate=params.get("train.learning_rate", 2e-4),
        lr_scheduler_type=params.get("train.lr_scheduler_type", "linear"),
        warmup_steps=params.get("train.warmup_steps", 0.0),
    )
    return with_adapter(replace(REAL.spec, train=train), r=rank, lora_alpha=rank, target_modules=modules)


def make_trial(number: int, **changes: Any) -> TrialResult:
    """Return the recorded trial with other values; with other scores, it has no base that was scored alike."""
    params = changes.pop("params", {"lora.r": 8})
    scores = changes.get("scores", (1.0, 0.0, 1.0, 1.0))
    own = {
        "params": params,
        "spec": spec_of(params),
        "scores": scores,
        "objective": sum(scores) / len(scores) if scores else None,
        "base": None,
        "examples": "",
    }
    return replace(REAL, number=number, **(own | changes))


@pytest.fixture
def trial() -> Make:
    return make_trial


@pytest.fixture
def study() -> list[TrialResult]:
    return make_study()


@pytest.fixture
def board(study: list[TrialResult]) -> Leaderboard:
    return make_board(study)


def make_board(results: list[TrialResult]) -> Leaderboard:
    return build_leaderboard(
        results,
        name="rank_alpha",
        question="Which rank and alpha, on which modules, classify our intents best?",
        objective="accuracy",
        test_metrics={"accuracy": 0.827, "macro_f1": 0.801, "loss": 0.611},
        notes=("12 of 600 training rows were truncated at 512 tokens.",),
    )


def make_study() -> list[TrialResult]:
    random.seed(7)
    ease = [random.random() for _ in range(150)]
    points = list(product((4, 16, 64), ("r", "2r", "4r"), ("qv", "attention")))
    return [_trial(n, *point, ease) for n, point in enumerate(points)]


def _trial(number: int, rank: int, alpha: str, modules: str, ease: list[float]) -> TrialResult:
    params = {"lora.r": rank, "lora.lora_alpha": alpha, "lora.target_modules": modules, "train.learning_rate": 2e-4}
    skill = 0.62 + 0.05 * (rank > 4) + 0.06 * (modules == "attention") + 0.04 * (alpha != "r")
    scores = tuple(float(skill + random.gauss(0, 0.06) > e) for e in ease)
    whole = make_trial(number, params=params, scores=scores)
    whole = replace(whole, cost=_cost(rank, modules), history=_history(whole.objective or 0.0))
    if number in (2, 9, 14):
        reason = "stopped at step 11: accuracy is below the median 0.626"
        return replace(
            whole, state=TrialState.PRUNED, objective=None, scores=(), history=whole.history[:12], reason=reason
        )
    if number == 17:
        reason = "needs 11.4 GiB, cuda:0 has 9.8; lower train.per_device_train_batch_size or set model.precision=nf4"
        lost = TrialResult.of(whole.trial, TrialState.INFEASIBLE, reason)
        return replace(lost, cost=Cost(predicted_bytes=int(11.4 * 2**30)))
    if number == 6:
        reason = "Traceback (most recent call last):\n  line 3\nRuntimeError: the loss is not finite at step 12"
        return TrialResult.of(whole.trial, TrialState.FAILED, reason)
    forgotten = 0.004 * rank**0.5 + 0.01 * (alpha == "4r") + 0.004 * (modules == "attention") - 0.012
    accuracy = whole.objective or 0.0
    own = {"accuracy": accuracy, "macro_f1": accuracy - 0.02, "loss": 1.6 - skill, "forgetting": forgotten}
    low_baseline = replace(REAL.probes[-1], note=NOTE)
    return replace(whole, metrics=REAL.metrics | own, probes=(*REAL.probes[:-1], low_baseline))


def _cost(rank: int, modules: str) -> Cost:
    parameters = rank * 2048 * (2 if modules == "qv" else 4) * 12
    return replace(
        REAL.cost, wall_s=41.0 + rank, train_s=30.0 + rank / 2, its_per_s=7.9 - rank / 40,
        tokens_per_s=14000.0 - 20 * rank,
        predicted_bytes=int(2.1 * 2**30) + parameters * 16, peak_bytes=int(2.3 * 2**30), shared_by=6,
        trainable_parameters=parameters, trainable_percent=100 * parameters / 4e8, adapter_bytes=parameters * 4,
    )  # fmt: skip


def _history(final: float) -> tuple[Point, ...]:
    """Return the recorded points, with rungs that rise to a score."""
    shares = {11: 0.55 + random.random() / 10, 20: 1.0}
    return tuple(
        replace(p, metrics=p.metrics | {"eval/accuracy": final * shares[p.step]}) if "eval/accuracy" in p.metrics else p
        for p in REAL.history
    )
