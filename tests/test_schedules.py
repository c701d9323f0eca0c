"""Learning rates equal those of transformers, at every step, with and without warm-up."""

from typing import get_args

import pytest
import torch
from transformers.optimization import get_scheduler

from lorasweep.adapters.schedules import make_schedule
from lorasweep.core.spec import Scheduler

STEPS = 20


def rates(kind: str, *, own: bool, warmup: int) -> list[float]:
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=3e-3)
    schedule = (make_schedule if own else get_scheduler)(kind, optimizer, warmup, STEPS)
    found = []
    for _ in range(STEPS + 3):
        found.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return [float(rate) for rate in found]


@pytest.mark.parametrize("warmup", [0, 1, 7, STEPS])
@pytest.mark.parametrize("kind", get_args(Scheduler))
def test_a_schedule_is_that_of_transformers(kind: str, warmup: int) -> None:
    if kind == "polynomial" and warmup == STEPS:
        pytest.skip("transformers divides by zero")
    assert rates(kind, own=True, warmup=warmup) == rates(kind, own=False, warmup=warmup)
