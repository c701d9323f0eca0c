"""The name of a run has its swept settings."""

from pathlib import Path

import pytest

from lorasweep.config.build import build_config
from lorasweep.config.space import read_space
from lorasweep.core.trial import Trial
from lorasweep.planning.make import make_plan
from lorasweep.tracking.naming import run_name, trial_name
from tests.settings import SPEC, composed


def name(*arguments: str) -> str:
    raw = composed(*arguments)
    return run_name(build_config(raw), read_space(raw))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["+sweep=rank_alpha"], "rank_alpha"),
        (["sweep.name=mine", "lora.r=4,8"], "mine"),
        ([], "intents-demo"),
        (["lora.r=4,8"], "intents-r_4_8"),
        (["train.learning_rate=interval(1e-4,1e-2)"], "intents-learning_rate_0.0001_to_0.01"),
        (["lora.target_modules=qv,'[q_proj,o_proj]'"], "intents-target_modules_qv_q_proj_o_proj"),
        (["data=alpaca", "data.train=a b/my rows.jsonl[:500]", "lora.lora_alpha=r,2r"], "my_rows-lora_alpha_r_2r"),
        (["data=alpaca", "data.train=tatsu-lab/alpaca:train[:5%]", "lora.r=2,4"], "alpaca-r_2_4"),
    ],
)
def test_a_run_is_named_by_its_data_and_what_it_tries(arguments: list[str], expected: str) -> None:
    assert name(*arguments) == expected


def test_a_long_name_is_cut() -> None:
    long = name("lora.r=1,2,4,8,16,32", "train.learning_rate=1e-4,2e-4,5e-4,1e-3,2e-3", "lora.lora_alpha=r,2r,4r")
    assert len(long) <= 60 and long.startswith("intents-r_1_2_4_8_16_32-")


def test_a_trial_is_named_by_its_number_and_values() -> None:
    assert (
        trial_name(Trial(number=3, params={"lora.r": 8, "train.learning_rate": 0.00123456}, spec=SPEC))
        == "trial-003 r=8 learning_rate=0.001235"
    )


def test_a_finite_space_that_is_no_larger_than_the_trials_is_a_grid(in_tmp: Path) -> None:
    small = make_plan(composed("lora.r=4,8", "probes=none"))
    assert small.is_grid and small.num_trials == 2
    large = make_plan(composed("lora.r=4,8,16", "study.trials=2", "probes=none"))
    assert not large.is_grid and large.num_trials == 2


def test_points_that_mean_the_same_do_not_make_a_grid_too_large(in_tmp: Path) -> None:
    idle = ("train.lr_scheduler_type=constant,linear", "train.warmup_steps=0.1,0.2")
    found = make_plan(composed(*idle, "study.trials=3", "probes=none"))
    assert found.is_grid and found.num_trials == 3 and len(found.trials) == 3
