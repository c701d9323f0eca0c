"""A winner at the end of the swept range is named, with an override that extends the range."""

import shlex
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from lorasweep.adapters.methods.lora import alpha_of
from lorasweep.config.constraints import rule_of
from lorasweep.config.grammar import Choice, Interval, parse
from lorasweep.core.result import TrialResult
from lorasweep.report.edges import edges
from lorasweep.report.leaderboard import Leaderboard, build_leaderboard
from lorasweep.report.render import to_csv, to_json
from tests.settings import with_adapter

Make = Callable[..., TrialResult]


@pytest.mark.parametrize(
    ("key", "swept", "best", "override"),
    [
        ("lora.r", "4,8,16", 16, "lora.r=16,32,64"),
        ("lora.r", "8,16", 8, "lora.r=2,4,8"),
        ("lora.r", "2,4", 2, "lora.r=1,2"),
        ("lora.lora_alpha", "r,2r,4r", "4r", "lora.lora_alpha=4r,8r,16r"),
        ("lora.lora_alpha", "32,64", 64, "lora.lora_alpha=64,128,256"),
        ("train.learning_rate", "1e-4,1e-3", 1e-3, "train.learning_rate=0.001,0.01,0.1"),
        ("train.learning_rate", "1e-3,4e-2", 1e-3, "train.learning_rate=1e-05,0.0001,0.001"),
        ("lora.lora_dropout", "0.0,0.05,0.1", 0.1, "lora.lora_dropout=0.1,0.15,0.2"),
        ("lora.lora_dropout", "0.5,0.9", 0.9, "lora.lora_dropout=0.9,0.95,0.975"),
        ("train.weight_decay", "0.0,0.01,0.1", 0.1, "train.weight_decay=0.1,1,10"),
        ("train.learning_rate", "tag(log,interval(1e-4,1e-2))", 9e-3,
         "train.learning_rate=tag(log,interval(0.001,0.1))"),
        ("lora.r", "int(interval(2,64))", 64, "lora.r=int(interval(33,95))"),
    ],
)  # fmt: skip
def test_an_override_goes_on_where_the_sweep_ended(key: str, swept: str, best: Any, override: str) -> None:
    (edge,) = edges({key: best}, {key: parse(key, swept)})
    assert shlex.split(edge.override) == [override]
    domain = parse(key, override.partition("=")[2])
    values = domain.values if isinstance(domain, Choice) else (domain.low, domain.high)
    rule = rule_of(key)
    assert rule and all(rule[0](alpha_of(value, 8) if isinstance(value, str) else value) for value in values)


@pytest.mark.parametrize(
    ("key", "swept", "best"),
    [
        ("lora.r", "4,8,16", 8),
        ("lora.r", "8", 8),
        ("lora.r", "1,2", 1),
        ("lora.lora_dropout", "0.0,0.1", 0.0),
        ("train.weight_decay", "0.0,0.1", 0.0),
        ("lora.lora_alpha", "16,2r", "2r"),
        ("lora.target_modules", "qv,qkv", "qkv"),
        ("train.learning_rate", "tag(log,interval(1e-4,1e-2))", 1e-3),
    ],
)
def test_no_edge_is_claimed_within_the_range_or_at_a_natural_end(key: str, swept: str, best: Any) -> None:
    assert edges({key: best}, {key: parse(key, swept)}) == ()


def swept(trial: Make, alphas: tuple[int, ...] = (8, 16), **params: Any) -> list[TrialResult]:
    results = [trial(n, params={"lora.lora_alpha": alpha, **params}) for n, alpha in enumerate(alphas)]
    return [replace(r, spec=with_adapter(r.spec, lora_alpha=a)) for r, a in zip(results, alphas, strict=True)]


def ranked(results: list[TrialResult], **more: Any) -> Leaderboard:
    return build_leaderboard(results, name="s", question="q", objective="accuracy", **more)


def test_the_advice_names_the_edge_with_its_override(trial: Make) -> None:
    board = ranked(swept(trial), domains={"lora.lora_alpha": Choice(values=(8, 16))})
    edge = "The winner is at the end of the swept range: lora_alpha=8 (the smallest); values beyond it were not tried."
    assert f"{edge} The override lora.lora_alpha=2,4,8 would extend the range." in board.recommendation
    assert to_json(board)["edges"][0]["override"] == "lora.lora_alpha=2,4,8"


def test_a_value_close_to_the_end_of_an_interval_is_near_the_end(trial: Make) -> None:
    domain = Interval(low=1e-4, high=1e-2, is_log=True)
    board = ranked([trial(0, params={"train.learning_rate": 9e-3})], domains={"train.learning_rate": domain})
    assert "learning_rate=0.009 (near the upper end)" in board.recommendation


def test_a_setting_without_effect_has_no_edge(trial: Make) -> None:
    params = {"train.lr_scheduler_type": "constant", "train.warmup_steps": 0.1}
    domain = {"train.warmup_steps": Choice(values=(0.0, 0.05, 0.1))}
    assert ranked([trial(0, params=params)], domains=domain).edges == ()


def test_the_scale_is_a_column_where_a_part_of_it_was_swept(trial: Make) -> None:
    board = ranked(swept(trial))
    header, *lines = to_csv(board).splitlines()
    place = header.split(",").index("scale")
    assert [line.split(",")[place] for line in lines] == ["1.0", "2.0"]


def test_a_scale_that_all_share_is_named_with_what_is_the_same(trial: Make) -> None:
    assert ranked([trial(0, params={})]).fixed["alpha/r"] == "1"


def test_for_a_sweep_of_alpha_at_one_rate_the_advice_is_to_sweep_the_rate(trial: Make) -> None:
    text = ranked(swept(trial)).recommendation
    assert "All trials have one learning rate (0.0002), and lora_alpha changed alpha/r, from 1 to 2" in text


def test_for_a_sweep_of_ranks_at_one_scale_the_advice_is_to_sweep_the_rate(trial: Make) -> None:
    results = [trial(n, params={"lora.r": r}) for n, r in enumerate((4, 8))]
    assert "one learning rate (0.0002) and one alpha/r (1): r is compared" in ranked(results).recommendation


def test_for_a_sweep_of_other_settings_too_there_is_no_advice_on_the_rate(trial: Make) -> None:
    results = [trial(n, params={"lora.r": 4 * n + 4, "lora.target_modules": m}) for n, m in
               enumerate(("qv", "attention"))]  # fmt: skip
    assert "All trials have one learning rate" not in ranked(results).recommendation
