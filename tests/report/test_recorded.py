"""The recorded result has what a trial has today."""

from dataclasses import asdict
from typing import Any

import pytest

from lorasweep.core.result import TrialResult
from tests.report.recorded import recorded, trained


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> TrialResult:
    return trained(tmp_path_factory.mktemp("work"))


def keys(value: Any) -> Any:
    """Return the keys of nested objects and lists, without their values."""
    if isinstance(value, dict):
        return {key: keys(inner) for key, inner in value.items()}
    return [keys(inner) for inner in value] if isinstance(value, tuple) else None


@pytest.mark.slow
def test_the_recorded_result_has_the_keys_and_metrics_of_a_fresh_one(fresh: TrialResult) -> None:
    assert keys(asdict(recorded())) == keys(asdict(fresh))


@pytest.mark.slow
def test_the_recorded_result_has_the_settings_of_a_fresh_one(fresh: TrialResult) -> None:
    assert (recorded().spec, recorded().params) == (fresh.spec, fresh.params)


def test_the_recorded_result_is_measured_in_full() -> None:
    found = recorded()
    assert all((found.probes, found.samples, found.base, found.examples))
    assert [p.step for p in found.history if "eval/accuracy" in p.metrics] == [11, 20]
    assert found.objective == sum(found.scores) / len(found.scores)
