"""The expected work of a plan's trials, from which progress and the time left are estimated."""

from dataclasses import dataclass

from lorasweep.core.spec import EvalSpec
from lorasweep.planning.plan import Plan

NO_PRUNER = ("none", "patient")
EVALUATION = 1.0  # cost of scoring a row, in rows of training: forward only, but every option


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """The expected work of a trial. Costs of an evaluation are in training steps, until one has been timed."""

    evaluation: EvalSpec
    has_pruner: bool = False
    rung_cost: float = 0.0
    last_cost: float = 0.0


def expected(plan: Plan) -> Expected:
    """Return the expected work of a plan's trials; the first trial represents all."""
    spec = plan.trials[0].spec
    rows = plan.facts[spec.data_key].num_validation
    last = min(rows, spec.eval.limit or rows)
    batch = spec.train.per_device_train_batch_size * spec.train.gradient_accumulation_steps
    return Expected(
        evaluation=spec.eval,
        has_pruner=plan.config.study.pruner not in NO_PRUNER,
        rung_cost=EVALUATION * min(last, spec.eval.rung_limit or last) / batch,
        last_cost=EVALUATION * last / batch,
    )
