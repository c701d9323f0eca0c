"""The base's score equals that of an untrained adapter, and is measured once."""

from pathlib import Path

import pytest

from lorasweep.adapters.bank import Bank
from lorasweep.adapters.load import load_base
from lorasweep.adapters.methods.lora import LoraSpec
from lorasweep.core.spec import ModelSpec
from lorasweep.data.render import TokenRow
from lorasweep.data.tasks import Task, load_task
from lorasweep.models.base import Base
from lorasweep.models.info import resolve_targets
from lorasweep.models.tokenizer import tokenizer_key
from lorasweep.worker import baseline
from lorasweep.worker.baseline import base_score, chance_levels, majority_scores
from lorasweep.worker.scoring import PackedModel, score_suite
from tests.specs import INTENTS, trial


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base(ModelSpec(id="demo"), "cpu")


@pytest.fixture(scope="module")
def task(base: Base) -> Task:
    return load_task(INTENTS, base.tokenizer, tokenizer_key(base.tokenizer))


def test_the_base_scores_as_an_adapter_that_has_learned_nothing(base: Base, task: Task) -> None:
    spec = trial().eval
    bank = Bank(base, 1)
    slot = bank.add(0, LoraSpec(r=4, lora_alpha=8, target_modules=resolve_targets(base.spec, "qv")), seed=0)
    [fresh] = score_suite(PackedModel(base, bank, (slot,), 64), task.validation[: spec.limit], spec.all_metrics, spec)
    found = base_score(base, task, spec)
    assert found.metrics == pytest.approx(fresh.metrics, abs=1e-5)
    assert found.scores == fresh.scores[spec.objective]


def test_the_base_is_scored_once(base: Base, task: Task, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LORASWEEP_CACHE", str(tmp_path))
    first = base_score(base, task, trial().eval)
    monkeypatch.setattr(baseline, "score_suite", lambda *_: pytest.fail("scored again"))
    assert base_score(base, task, trial().eval) == first


def test_a_damaged_score_in_the_cache_is_measured_anew(
    base: Base, task: Task, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LORASWEEP_CACHE", str(tmp_path))
    first = base_score(base, task, trial().eval)
    for damage in ("[1]", "{", '{"scores": 3}', '{"metrics": {}, "scores": {"accuracy": [1]}, "num_tokens": []}'):
        [file] = tmp_path.glob("base-scores/*.json")
        file.write_text(damage)
        assert base_score(base, task, trial().eval) == first


def row(reference: str, options: tuple[tuple[int, ...], ...] = ((1,), (2,))) -> TokenRow:
    return TokenRow(ids=(1, 2), is_label=(False, True), prompt_length=1, options=options, reference=reference)


def test_chance_is_the_mean_over_rows_with_options_of_their_own() -> None:
    rows = [row("a"), row("b", ((1,), (2,), (3,), (4,)))]
    assert chance_levels(rows, ("accuracy", "loss")) == {"accuracy": 0.375}
    assert chance_levels([*rows, row("c", ())], ("accuracy",)) == {}


def test_the_majority_class_is_that_of_the_training_rows() -> None:
    train, rows = [row("a"), row("a"), row("b")], [row("a"), row("b"), row("b"), row("b")]
    found = majority_scores(train, rows, ("accuracy", "exact_match", "macro_f1", "loss"))
    assert found == pytest.approx({"accuracy": 0.25, "exact_match": 0.25, "macro_f1": 0.2})


def test_there_is_no_majority_class_where_every_row_has_options_of_its_own() -> None:
    assert majority_scores([row("a")], [row("a", ((5,), (6,)))], ("accuracy",)) == {}
