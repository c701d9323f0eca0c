"""Learning-rate schedules: the formulas of transformers' `get_scheduler`, whose module imports PEFT and bitsandbytes.

Each returns the factor of the learning rate at a step, given the warm-up steps and all steps.
"""

import math
from collections.abc import Callable
from functools import partial

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

POLYNOMIAL_END = 1e-7  # the learning rate at which `polynomial` ends, with power 1
NO_WARMUP_SCALE = 10_000  # steps; the time scale of `inverse_sqrt` without warm-up


def make_schedule(name: str, optimizer: Optimizer, num_warmup: int, num_steps: int) -> LambdaLR:
    """Return a schedule by the name that `TrainingArguments.lr_scheduler_type` has for it."""
    if name == "constant":
        num_warmup = 0
    if name == "polynomial":
        decay: Callable[[int, int, int], float] = partial(_polynomial, optimizer.defaults["lr"])
    else:
        decay = DECAYS[name]
    return LambdaLR(optimizer, partial(_factor, decay, num_warmup, num_steps))


def _factor(decay: Callable[[int, int, int], float], num_warmup: int, num_steps: int, step: int) -> float:
    return step / num_warmup if step < num_warmup else decay(num_warmup, num_steps, step)


def _constant(num_warmup: int, num_steps: int, step: int) -> float:
    return 1.0


def _linear(num_warmup: int, num_steps: int, step: int) -> float:
    return max(0.0, (num_steps - step) / max(1, num_steps - num_warmup))


def _cosine(num_warmup: int, num_steps: int, step: int) -> float:
    progress = (step - num_warmup) / max(1, num_steps - num_warmup)
    return max(0.0, 0.5 * (1 + math.cos(math.pi * progress)))


def _inverse_sqrt(num_warmup: int, num_steps: int, step: int) -> float:
    scale = num_warmup or NO_WARMUP_SCALE
    return 1 / math.sqrt((step - num_warmup + scale) / scale)


def _polynomial(rate: float, num_warmup: int, num_steps: int, step: int) -> float:
    left = max(0.0, 1 - (step - num_warmup) / max(1, num_steps - num_warmup))
    return ((rate - POLYNOMIAL_END) * left + POLYNOMIAL_END) / rate


DECAYS = {
    "linear": _linear, "cosine": _cosine, "constant": _constant, "constant_with_warmup": _constant,
    "inverse_sqrt": _inverse_sqrt,
}  # fmt: skip
