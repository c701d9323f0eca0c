"""The size of a pass is measured during training, and does not change losses."""

from itertools import pairwise

import pytest

from lorasweep.adapters.pass_size import LIMITS, TRIES, WHOLE, PassSize
from lorasweep.adapters.train import passes
from lorasweep.core.spec import ModelSpec
from tests.test_bank import join, make_bank, mixed


def settle(pass_size: PassSize, num_tokens: int, seconds: dict[int, float]) -> list[int]:
    """Record steps until every size is settled; return the limits that were tried."""
    tried = []
    while not pass_size.is_settled(num_tokens):
        limit = pass_size.limit(num_tokens)
        tried.append(limit)
        pass_size.record(limit, num_tokens, seconds[limit])
    return tried


def test_the_fastest_size_stays() -> None:
    pass_size = PassSize()
    tried = settle(pass_size, 10_000, {limit: 2.0 if limit != 1024 else 1.0 for limit in LIMITS})
    assert pass_size.limit(10_000) == 1024
    assert all(tried.count(limit) >= TRIES for limit in LIMITS)


def test_sizes_that_would_not_cut_are_not_tried() -> None:
    pass_size = PassSize()
    assert set(settle(pass_size, 600, dict.fromkeys(LIMITS, 1.0))) == {WHOLE, 256}


def test_a_step_of_another_size_is_tried_anew() -> None:
    pass_size = PassSize()
    settle(pass_size, 10_000, dict.fromkeys(LIMITS, 1.0))
    assert pass_size.is_settled(12_000)
    assert not pass_size.is_settled(600)


@pytest.mark.parametrize("limit", [1, 60, WHOLE])
def test_every_trial_is_in_one_pass(limit: int, demo_train_states: list[object]) -> None:
    parts = passes(demo_train_states, limit)  # type: ignore[arg-type]
    assert [x for part in parts for x in part] == demo_train_states
    assert len(parts) == (1 if limit == WHOLE else len(parts))
    for part, following in pairwise(parts):
        assert sum(x.slot.num_tokens for x in part) + following[0].slot.num_tokens > limit


@pytest.fixture(scope="module")
def demo_train_states() -> list[object]:
    from lorasweep.adapters.load import load_base

    base = load_base(ModelSpec(id="demo"), "cpu")
    bank = make_bank(base, 6)
    return [join(bank, i, *trial) for i, trial in enumerate(mixed(base.spec, num=6))]
