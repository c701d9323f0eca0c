"""A configuration is valid, or all of its mistakes are reported at once."""

from typing import Any

import pytest

from lorasweep.config.build import build_config
from lorasweep.config.settings import SweepConfig
from lorasweep.core.errors import ConfigError
from tests.settings import composed, minimal


def problems(raw: dict[str, Any]) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        build_config(raw)
    return caught.value.problems


def test_the_shipped_defaults_are_a_configuration() -> None:
    config = build_config(composed())
    assert isinstance(config, SweepConfig)
    assert (config.model.id, config.lora.identity()["r"], len(config.eval.probes)) == ("demo", 8, 5)


def test_every_mistake_is_reported_together() -> None:
    raw = minimal(lora={"aplha": 1, "r": 0}, train={"learning_rate": "fast"}, study={"sampler": "tpee"})
    found = "\n".join(problems(raw))
    for path in ("lora.aplha", "lora.r", "train.learning_rate", "study.sampler"):
        assert path in found
    assert len(problems(raw)) == 4


def test_the_message_counts_and_lists_the_mistakes() -> None:
    assert str(ConfigError(["a: b", "c: d"])) == "2 mistakes in the configuration:\n  - a: b\n  - c: d"


@pytest.mark.parametrize(
    ("section", "wrong", "meant"),
    [
        ("lora", "lora_alhpa", "lora_alpha"),
        ("train", "lr", "learning_rate"),
        ("train", "batch_size", "per_device_train_batch_size"),
        ("model", "quantization", "precision"),
    ],
)
def test_a_wrong_name_is_answered_with_the_right_one(section: str, wrong: str, meant: str) -> None:
    assert problems(minimal(**{section: {wrong: 1}})) == (
        f"{section}.{wrong}: no such setting; did you mean {meant!r}?",
    )


@pytest.mark.parametrize(("wrong", "meant"), [("lr", "train.learning_rate"), ("quant", "model.precision")])
def test_a_setting_without_its_section_is_answered_with_the_section(wrong: str, meant: str) -> None:
    assert problems(minimal() | {wrong: "x"}) == (f"{wrong}: no such setting; did you mean {meant!r}?",)


def test_a_name_like_no_other_is_answered_with_all_there_are() -> None:
    assert "known here: id, revision" in problems(minimal(model={"zzzzzz": 1}))[0]


def test_question_marks_are_a_missing_value() -> None:
    assert problems(minimal(data={"train": "???"})) == (
        "data.train: is missing; set it, for example data.train=my_data.jsonl",
    )


def test_a_missing_section_is_named() -> None:
    raw = minimal()
    del raw["model"]
    assert problems(raw)[0].startswith("model: is missing")


@pytest.mark.parametrize("value", ["1e-4", 1e-4, "0.0001"])
def test_numbers_that_yaml_reads_as_text_are_numbers(value: object) -> None:
    assert build_config(minimal(train={"learning_rate": value})).train.learning_rate == 1e-4


def test_a_whole_number_may_stand_where_a_fraction_may() -> None:
    weight_decay = build_config(minimal(train={"weight_decay": 0})).train.weight_decay
    assert isinstance(weight_decay, float)


@pytest.mark.parametrize(
    ("value", "wanted"),
    [(True, "a whole number, not True"), (8.5, "a whole number, not 8.5"), ("x", "a whole number, not 'x'")],
)
def test_what_is_no_whole_number_is_named(value: object, wanted: str) -> None:
    assert problems(minimal(lora={"r": value})) == (f"lora.r: must be {wanted}",)


def test_a_boolean_is_no_number_and_a_number_no_boolean() -> None:
    assert problems(minimal(lora={"use_rslora": 1, "lora_dropout": False})) == (
        "lora.lora_dropout: must be a number, not False",
        "lora.use_rslora: must be true or false, not 1",
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "inf", ".nan", "nan"])
def test_a_number_must_be_finite(value: object) -> None:
    assert problems(minimal(train={"weight_decay": value}))[0].startswith("train.weight_decay: must be a ")


def test_a_device_index_is_text_to_us_and_a_number_to_yaml() -> None:
    raw: dict[str, Any] = minimal() | {"devices": 0}
    assert build_config(raw).devices == "0"


@pytest.mark.parametrize("value", [None, "none"])
def test_none_is_null_where_null_may_be(value: object) -> None:
    assert build_config(minimal(data={"limit": value})).data.limit is None


def test_a_closed_choice_suggests_the_nearest() -> None:
    assert problems(minimal(model={"precision": "nf3"}))[0] == (
        "model.precision: 'nf3' is not one of none, int8, nf4, nf4_double, fp4; did you mean 'nf4'?"
    )


def test_null_means_none_where_none_is_a_choice() -> None:
    assert build_config(minimal(model={"precision": None})).model.precision == "none"


@pytest.mark.parametrize("alpha", ["", "r2", "-2r", "0r", 0, -1, "*", "two"])
def test_any_other_alpha_is_refused(alpha: object) -> None:
    assert problems(minimal(lora={"lora_alpha": alpha}))[0].startswith("lora.lora_alpha: ")


@pytest.mark.parametrize(
    "changes",
    [
        {"lora": {"lora_dropout": 1.0}},
        {"lora": {"target_modules": []}},
        {"train": {"max_steps": 0}},
        {"train": {"per_device_train_batch_size": 0}},
        {"data": {"validation_share": 1.0}},
        {"eval": {"objective": "bleu"}},
        {"eval": {"metrics": ["accuracy", "blue"]}},
        {"eval": {"rung_factor": 0.5}},
        {"eval": {"rung_limit": 0}},
        {"study": {"keep_adapters": 0}},
        {"study": {"reduction_factor": 1}},
        {"sweep": {"name": "../up"}},
    ],
)
def test_values_out_of_range_are_named_with_their_remedy(changes: dict[str, dict[str, Any]]) -> None:
    [(section, settings)] = changes.items()
    [problem] = problems(minimal(**changes))
    assert problem.startswith(f"{section}.{next(iter(settings))}: ")


def test_a_probe_is_named_by_its_key_and_checked_like_a_setting() -> None:
    probes = {"facts": {"path": "f.jsonl", "metric": "macro_f1"}, "gone": None, "bad": {"pth": 1}}
    found = problems(minimal(eval={"probes": probes}))
    assert [p.split(":")[0] for p in found] == [
        "eval.probes.facts.metric",
        "eval.probes.bad.pth",
        "eval.probes.bad.path",
    ]


def test_a_probe_set_to_null_is_left_out() -> None:
    config = build_config(minimal(eval={"probes": {"facts": {"path": "f.jsonl"}, "gone": None}}))
    assert [p.name for p in config.eval.probes] == ["facts"]


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"data": {"format": "alpaca"}, "eval": {"objective": "accuracy"}}, "accuracy needs answer options"),
        ({"data": {"format": "text"}, "eval": {"objective": "rougeL"}}, "no reference answer"),
        ({"study": {"pruner": "rules"}, "eval": {"rungs": 1}}, "set eval.rungs=5 or study.pruner=none"),
        ({"train": {"optim": "paged_adamw_8bit"}, "model": {"dtype": "fp16"}}, "cannot be loss-scaled"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes: dict[str, dict[str, Any]], word: str) -> None:
    assert word in problems(minimal(**changes))[0]


def test_a_section_that_is_no_section_is_refused() -> None:
    raw: dict[str, Any] = minimal() | {"lora": 8}
    assert problems(raw) == ("lora: must be a section of settings, not 8",)


def test_a_sweep_that_is_a_name_is_refused() -> None:
    raw: dict[str, Any] = minimal() | {"sweep": "rank_alpha"}
    assert "write +sweep=NAME" in problems(raw)[0]
