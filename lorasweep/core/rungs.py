"""The steps at which a trial reports: the same shares of the steps for all trials of a study, none during warm-up."""

import math
from collections.abc import Sequence

from lorasweep.core.spec import EvalSpec, TrainSpec, TrialSpec, canonical


def rung_shares(num_rungs: int, factor: float = 1.0, start: float = 0.0) -> tuple[float, ...]:
    """Return the rungs as shares of a trial's steps; the last is 1.

    Rungs lie after `start`, the share of the study's longest warm-up. The distance of each rung from `start` is
    `factor` times that of the previous rung; with a factor of 1 rungs are evenly spaced.
    """
    if factor == 1:
        shares = [i / num_rungs for i in range(1, num_rungs + 1)]
    else:
        shares = [factor**-i for i in reversed(range(num_rungs))]
    return tuple(start + share * (1 - start) for share in shares)


def rung_steps(num_steps: int, num_rungs: int, factor: float = 1.0, start: float = 0.0) -> tuple[int, ...]:
    """Return the step of every rung; the last is the last step. Rungs of a short trial may share a step."""
    warm = math.ceil(start * num_steps - 1e-9)  # rounding may put a product such as 0.1 * 30 above 3
    shares = rung_shares(num_rungs, factor, start)
    return tuple(min(num_steps, max(1, warm, round(num_steps * share))) for share in shares)


def rungs_of(spec: EvalSpec, num_steps: int) -> tuple[int, ...]:
    """Return the step of every rung of an evaluation."""
    return rung_steps(num_steps, spec.rungs, spec.rung_factor, spec.rung_start)


def rung_at(steps: Sequence[int], step: int) -> int:
    """Return the number of the rung at a step, from 1; the last if several rungs share the step, 0 if none is there."""
    return max((number for number, at in enumerate(steps, 1) if at == step), default=0)


def warmup_share(spec: TrialSpec, num_train: int) -> float:
    """Return the share of a trial's steps that are warm-up, at most 1; 0 for a constant schedule."""
    train: TrainSpec = canonical(spec).train
    if train.warmup_steps < 1:
        return train.warmup_steps
    return min(1.0, train.warmup_steps / spec.train.num_steps(num_train))
