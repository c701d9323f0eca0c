"""A study of 18 trials, 3 ranks x 3 alphas x 2 module sets, with every final state."""

import random
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from lorasweep.core.result import Cost, Point, Probe, Sample, TrialResult, TrialState
from lorasweep.core.spec import DataSpec, LoraSpec, ModelSpec, TrainSpec, TrialSpec
from lorasweep.core.spec import EvalSpec as Evaluation
from lorasweep.report.leaderboard import Leaderboard, build_leaderboard

Make = Callable[..., TrialResult]
MODULES = {"qv": ("q_proj", "v_proj"), "attention": ("k_proj", "o_proj", "q_proj", "v_proj")}
PROVENANCE = {"commit": "39dfaa6c0ffee", "python": "3.11.2", "version.torch": "2.9.1", "version.peft": "0.18.0"}
PROBES = (
    Probe(name="facts", metric="accuracy", before=0.82, after=0.78, drop=0.04, relative_drop=0.049, low=0.01,
          high=0.07),
    Probe(name="arithmetic", metric="accuracy", before=0.61, after=0.60, drop=0.01, relative_drop=0.016, low=-0.03,
          high=0.05),
    Probe(name="prose", metric="loss", before=2.31, after=2.28, drop=-0.03, relative_drop=-0.03, low=-0.05, high=-0.01),
    Probe(name="sequences", metric="accuracy", before=0.27, after=0.25, drop=0.02, relative_drop=0.07, low=-0.05,
          high=0.09, note="baseline 0.270 (95% from 0.190) is not above chance 0.250"),
)  # fmt: skip


def spec_of(params: dict[str, Any], model: str = "demo", objective: str = "accuracy") -> TrialSpec:
    rank = params.get("lora.r", 8)
    return TrialSpec(
        model=ModelSpec(id=model),
        lora=LoraSpec(r=rank, lora_alpha=rank, target_modules=MODULES[params.get("lora.target_modules", "qv")]),
        train=TrainSpec(
            learning_rate=params.get("train.learning_rate", 2e-4),
            per_device_train_batch_size=8,
            lr_scheduler_type=params.get("train.lr_scheduler_type", "linear"),
            warmup_steps=params.get("train.warmup_steps", 0.0),
        ),
        data=DataSpec(train="demo:intents", format="classification"),
        eval=Evaluation(objective=objective, metrics=("macro_f1",)),
    )


def make_trial(number: int, **changes: Any) -> TrialResult:
    """Build a small complete trial; arguments replace its values."""
    params = changes.pop("params", {"lora.r": 8})
    scores = changes.pop("scores", (1.0, 0.0, 1.0, 1.0))
    base = TrialResult(
        number=number,
        state=TrialState.COMPLETE,
        spec=changes.pop("spec", None) or spec_of(params),
        params=params,
        scores=scores,
        objective=sum(scores) / len(scores) if scores else None,
        cost=Cost(trainable_parameters=1000),
    )
    return replace(base, **changes)


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
    whole = replace(whole, provenance=PROVENANCE, cost=_cost(rank, modules), history=_history(whole.objective or 0.0))
    if number in (2, 9, 14):
        reason = "stopped at step 50: accuracy is below the median 0.626"
        return replace(
            whole, state=TrialState.PRUNED, objective=None, scores=(), history=whole.history[:3], reason=reason
        )
    if number == 17:
        reason = "needs 11.4 GiB, cuda:0 has 9.8; lower train.per_device_train_batch_size or set model.precision=nf4"
        cost = Cost(predicted_bytes=int(11.4 * 2**30))
        return make_trial(
            17, params=params, cost=cost, state=TrialState.INFEASIBLE, objective=None, scores=(), reason=reason
        )
    if number == 6:
        reason = "Traceback (most recent call last):\n  line 3\nRuntimeError: the loss is not finite at step 12"
        return make_trial(
            6, params=params, cost=Cost(), state=TrialState.FAILED, objective=None, scores=(), reason=reason
        )
    lost = 0.004 * rank**0.5 + 0.01 * (alpha == "4r") + 0.004 * (modules == "attention") - 0.012
    metrics = {"accuracy": whole.objective or 0.0, "macro_f1": (whole.objective or 0.0) - 0.02, "loss": 1.6 - skill,
               "forgetting": lost, "probe/facts/accuracy": 0.78}  # fmt: skip
    return replace(whole, metrics=metrics, probes=PROBES, samples=_samples())


def _cost(rank: int, modules: str) -> Cost:
    parameters = rank * 2048 * (2 if modules == "qv" else 4) * 12
    return Cost(
        wall_s=41.0 + rank, train_s=30.0 + rank / 2, its_per_s=7.9 - rank / 40, tokens_per_s=14000.0 - 20 * rank,
        predicted_bytes=int(2.1 * 2**30) + parameters * 16, peak_bytes=int(2.3 * 2**30), shared_by=6,
        trainable_parameters=parameters, trainable_percent=100 * parameters / 4e8, adapter_bytes=parameters * 4,
    )  # fmt: skip


def _history(final: float) -> tuple[Point, ...]:
    shares = ((25, 0.55 + random.random() / 10), (50, 0.8), (75, 0.94 + random.random() / 20), (100, 1.0))
    rungs = [
        Point(step=step, metrics={"eval/accuracy": round(final * share, 4), "eval/loss": 1.0}) for step, share in shares
    ]
    return (rungs[0], Point(step=30, metrics={"train/step_loss": 1.2}), *rungs[1:])


def _samples() -> tuple[Sample, ...]:
    return (
        Sample(prompt="Classify the intent.\n\nMy card was swallowed by the machine.\n\nIntent:", reference="card_lost",
               output="card_lost"),
        Sample(prompt="Classify the intent.\n\nWhen will my transfer arrive?\n\nIntent:", reference="transfer_timing",
               output="transfer_status"),
    )  # fmt: skip
