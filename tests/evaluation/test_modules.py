from __future__ import annotations

from pathlib import Path

import evaluate  # type: ignore[import-untyped,unused-ignore]
import pytest

from evaluation.modules import MODULES, load

TEXTS = {"predictions": ["the cat sat", "x"], "references": ["the cat", "x"]}


@pytest.mark.parametrize(
    ("name", "inputs", "expected"),
    [
        ("accuracy", {"predictions": [0, 1, 1], "references": [0, 1, 0]}, {"accuracy": 2 / 3}),
        ("f1", {"predictions": ["a", "a"], "references": ["a", "b"]}, {"macro_f1": 1 / 3}),
        ("exact_match", TEXTS, {"exact_match": 0.5}),
        ("rouge", TEXTS, {"rouge1": 0.9, "rouge2": 1 / 3, "rougeL": 0.9}),
    ],
)
@pytest.mark.parametrize("keep_in_memory", [True, False])
def test_modules_compute_the_plain_scores(
    name: str, inputs: dict[str, list[str]], expected: dict[str, float], keep_in_memory: bool, tmp_path: Path
) -> None:
    module = load(name, keep_in_memory=keep_in_memory, cache_dir=tmp_path)
    assert module.compute(**inputs) == pytest.approx(expected)


@pytest.mark.parametrize("keep_in_memory", [True, False])
def test_predictions_touch_the_disk_only_on_request(keep_in_memory: bool, tmp_path: Path) -> None:
    module = load("accuracy", keep_in_memory=keep_in_memory, cache_dir=tmp_path)
    module.add_batch(predictions=[0, 1], references=[0, 1])
    assert any(path.is_file() for path in tmp_path.rglob("*")) is not keep_in_memory
    module.compute()


def test_options_reach_the_plain_function(tmp_path: Path) -> None:
    inputs = {"predictions": ["BOATS running"], "references": ["boat runs"]}
    assert load("rouge", cache_dir=tmp_path).compute(**inputs, use_stemmer=True)["rouge1"] == 1
    inputs = {"predictions": ["Yes"], "references": ["yes"]}
    assert load("exact_match", cache_dir=tmp_path).compute(**inputs, casefold=True) == {"exact_match": 1}


def test_modules_combine(tmp_path: Path) -> None:
    both = evaluate.combine([load(name, cache_dir=tmp_path) for name in ("exact_match", "rouge")])
    assert both.compute(**TEXTS).keys() == {"exact_match", "rouge1", "rouge2", "rougeL"}


def test_an_unknown_module_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=f"'bleurt'; known: {', '.join(MODULES)}"):
        load("bleurt")
