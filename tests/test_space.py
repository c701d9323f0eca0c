"""The trials of a space, duplicates among them, and errors that are found before anything is loaded."""

from collections.abc import Mapping
from typing import Any

import optuna
import pytest

from lorasweep.adapters.methods.lora import alpha_of
from lorasweep.config.folders import data_dir
from lorasweep.config.grammar import parse
from lorasweep.config.space import (
    distinct,
    distributions,
    draft,
    grid,
    num_points,
    read_space,
    resolved,
    trial_spec,
    values_of,
)
from lorasweep.core.errors import ConfigError
from lorasweep.core.spec import TrialSpec
from lorasweep.core.trial import Params
from lorasweep.models.info import resolve_targets
from tests.settings import composed, lora_of, minimal

SWEEPS = sorted(data_dir("sweeps").glob("*.yaml"))


def spec_of(raw: Mapping[str, Any], **params: Any) -> TrialSpec:
    named: Params = {key.replace("__", "."): value for key, value in params.items()}
    return trial_spec(raw, named, resolve_targets)


def space(**settings: Any) -> dict[str, Any]:
    return minimal(sweep={"space": settings})


def problems(raw: dict[str, Any]) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        read_space(raw)
    return caught.value.problems


@pytest.mark.parametrize(("text", "alpha"), [("2r", 16), ("r", 8), ("0.5r", 4), ("2*r", 16), ("16", 16), ("2s", "2s")])
def test_alpha_follows_the_rank(text: str, alpha: float | str) -> None:
    assert alpha_of(text, 8) == alpha


@pytest.mark.parametrize(
    ("alpha", "values"),
    [("r", [4, 16]), ("2r", [8, 32]), ("0.5r", [2, 8]), ("2*r", [8, 32]), (16, [16, 16]), ("16", [16, 16])],
)
def test_alpha_of_a_trial_may_be_a_multiple_of_the_trials_own_rank(alpha: object, values: list[float]) -> None:
    raw = minimal(lora={"lora_alpha": alpha})
    assert [lora_of(spec_of(raw, lora__r=r)).lora_alpha for r in (4, 16)] == values


def test_an_explicit_list_and_the_preset_it_equals_are_the_same_trial() -> None:
    raw = minimal()
    preset = spec_of(raw, lora__target_modules="qv").fingerprint
    assert spec_of(raw, lora__target_modules="[v_proj,q_proj]").fingerprint == preset
    assert spec_of(raw, lora__target_modules="[self_attn.q_proj,v_proj]").fingerprint == preset


def test_knobs_without_effect_make_no_new_trials() -> None:
    raw = composed("train.lr_scheduler_type=linear,constant", "train.warmup_steps=0,0.1,0.2")
    points = grid(read_space(raw))
    assert len(points) == 6
    assert len(distinct([trial_spec(raw, p, resolve_targets) for p in points])) == 4


def test_equal_scales_make_no_new_trials() -> None:
    raw = composed("lora.r=16", "lora.lora_alpha=8,32", "lora.use_rslora=true,false")
    points = distinct([trial_spec(raw, p, resolve_targets) for p in grid(read_space(raw))])
    assert len(points) == 3  # rslora with 8 has the scale of 32 without


def test_rank_alpha_is_eighteen_trials() -> None:
    raw = composed("+sweep=rank_alpha")
    domains = read_space(raw)
    points = distinct([trial_spec(raw, p, resolve_targets) for p in grid(domains)])
    assert len(points) == num_points(domains) == 18


def test_the_last_key_of_a_grid_varies_fastest() -> None:
    points = grid(read_space(space(lora={"r": "choice(4,8)", "lora_dropout": "choice(0.0,0.1)"})))
    assert [tuple(p.values()) for p in points] == [(4, 0.0), (4, 0.1), (8, 0.0), (8, 0.1)]


def test_a_continuous_space_has_no_end() -> None:
    assert num_points(read_space(space(train={"learning_rate": "interval(1e-4,1e-2)"}))) == float("inf")


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("range(1,10,4)", (1, 5, 9)),
        ("int(interval(1,3))", (1, 2, 3)),
        ("range(0.1,0.5,0.1)", (0.1, 0.2, 0.3, 0.4)),
        ("range(0,1,0.3)", (0.0, 0.3, 0.6, 0.9)),
    ],
)
def test_a_finite_domain_lists_its_values_as_they_are_written(text: str, values: tuple[float, ...]) -> None:
    assert values_of(parse("x", text)) == values


@pytest.mark.parametrize(
    "settings",
    [
        {"lora": {"r": "choice(4,0)"}},
        {"lora": {"r": "int(interval(0,8))"}},
        {"lora": {"r": "interval(1,8)"}},
        {"lora": {"lora_alpha": "choice(2r,two)"}},
        {"train": {"learning_rate": "tag(log,interval(1e-4,100))"}},
        {"model": {"precision": "choice(none,nf5)"}},
        {"lora": {"rr": "choice(4,8)"}},
    ],
)
def test_every_value_of_a_space_is_checked_before_anything_is_loaded(settings: dict[str, dict[str, str]]) -> None:
    [(section, leaf)] = settings.items()
    assert problems(space(**settings))[0].startswith(f"sweep.space.{section}.{next(iter(leaf))}: ")


def test_a_value_may_be_null_by_the_name_of_none() -> None:
    raw = space(data={"limit": "choice(none,100)"})
    assert [spec_of(raw, data__limit=v).data.limit for v in values_of(read_space(raw)["data.limit"])] == [None, 100]


@pytest.mark.parametrize(
    "key", ["eval.rungs", "data.train", "data.split_seed", "model.trust_remote_code", "study.seed", "tracking.uri"]
)
def test_what_would_make_trials_incomparable_cannot_be_swept(key: str) -> None:
    section, name = key.split(".")
    assert any("cannot be swept" in p for p in problems(space(**{section: {name: "choice(1,2)"}})))


def test_a_group_cannot_be_swept() -> None:
    assert "sweep.space.model: is a group" in problems(composed("model=demo,tinyllama"))[0]


def test_mistakes_of_settings_and_space_come_together_and_once() -> None:
    raw = minimal(lora={"alpha": 1}, sweep={"space": {"lora": {"r": "choice(4"}, "eval": {"rungs": "1,2"}}})
    assert [p.split(":")[0] for p in problems(raw)] == ["lora.alpha", "sweep.space.lora.r", "sweep.space.eval.rungs"]


def test_a_contradiction_outside_the_space_is_not_blamed_on_it() -> None:
    raw = minimal(
        data={"format": "alpaca"}, eval={"objective": "accuracy"}, sweep={"space": {"lora": {"r": "choice(4,8)"}}}
    )
    [problem] = problems(raw)
    assert problem.startswith("eval.objective: accuracy needs")


def test_a_grid_cannot_run_through_an_interval() -> None:
    raw = minimal(study={"sampler": "grid"}, sweep={"space": {"lora": {"lora_dropout": "interval(0,0.5)"}}})
    assert "a grid needs finitely many values" in problems(raw)[0]


def test_a_module_that_the_base_has_not_is_reported_with_all_others() -> None:
    raw = minimal()
    points: list[Params] = [{"lora.target_modules": m} for m in ("qv", "c_attn", "[wq]")]
    with pytest.raises(ConfigError) as caught:
        resolved([draft(raw, point) for point in points], resolve_targets)
    assert len(caught.value.problems) == 2


def test_domains_become_optunas_distributions() -> None:
    texts = {
        "r": "choice(4,8)",
        "n": "range(1,10,4)",
        "k": "tag(log,int(interval(1,64)))",
        "lr": "tag(log,interval(1e-5,1e-2))",
        "d": "range(0,1,0.3)",
    }
    found = distributions({key: parse(key, text) for key, text in texts.items()})
    assert found == {
        "r": optuna.distributions.CategoricalDistribution((4, 8)),
        "n": optuna.distributions.IntDistribution(1, 9, step=4),
        "k": optuna.distributions.IntDistribution(1, 64, log=True),
        "lr": optuna.distributions.FloatDistribution(1e-5, 1e-2, log=True),
        "d": optuna.distributions.FloatDistribution(0.0, 0.9, step=0.3),
    }


@pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.stem)
def test_a_shipped_sweep_opens_with_its_question_and_builds_all_trials(file: Any) -> None:
    raw = composed(f"+sweep={file.stem}")
    first = file.read_text().splitlines()[0]
    assert first == f"# {raw['sweep']['question']}"
    assert raw["sweep"]["name"] == file.stem
    ends = [values_of(d) if num_points({"": d}) < 99 else (d.low, d.high) for d in read_space(raw).values()]  # type: ignore[union-attr]
    most = max(map(len, ends))
    points = [dict(zip(read_space(raw), (v[i % len(v)] for v in ends), strict=True)) for i in range(most)]
    assert len({trial_spec(raw, point, resolve_targets).fingerprint for point in points}) == most
