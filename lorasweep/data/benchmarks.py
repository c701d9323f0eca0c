"""Prompts and options of public benchmarks, worded as in lm-evaluation-harness, so that scores are comparable."""

import re
from collections.abc import Mapping
from typing import Any

Parts = tuple[str, tuple[str, ...], int]  # prompt, options, index of the right one


def hellaswag_parts(values: Mapping[str, Any]) -> Parts:
    """Return the context, the endings and the index of the right one; starts with `activity_label` if there is one."""
    text = _needed(values, "ctx")
    if values.get("ctx_a") is not None and values.get("ctx_b") is not None:
        text = f"{values['ctx_a']} {str(values['ctx_b']).capitalize()}"
    if values.get("activity_label"):
        text = f"{values['activity_label']}: {text}"
    endings = tuple(f" {_clean(str(ending))}" for ending in _list(values, "endings"))
    return _clean(text), endings, _place(values, "label", [str(i) for i in range(len(endings))])


def arc_parts(values: Mapping[str, Any]) -> Parts:
    """Return the question, its choices and the index of the right one."""
    choices = values.get("choices")
    if not isinstance(choices, Mapping):
        raise ValueError("has no 'choices' with 'text' and 'label'")
    texts = tuple(f" {text}" for text in _list(choices, "text"))
    labels = [str(label) for label in _list(choices, "label")]
    if len(texts) != len(labels):
        raise ValueError(f"has {len(texts)} choices and {len(labels)} labels")
    return f"Question: {_needed(values, 'question')}\nAnswer:", texts, _place(values, "answerKey", labels)


def winogrande_parts(values: Mapping[str, Any]) -> tuple[tuple[str, ...], str, int]:
    """Return the start of the sentence with each option, its end, and the index of the right option."""
    before, blank, after = _needed(values, "sentence").partition("_")
    if not blank:
        raise ValueError("has no blank '_' in its 'sentence'")
    beginnings = tuple(before + _needed(values, name) for name in ("option1", "option2"))
    return beginnings, f" {after.strip()}", _place(values, "answer", ["1", "2"])


def _clean(text: str) -> str:
    """Remove the marks that WikiHow's pages left in HellaSwag."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def _needed(values: Mapping[str, Any], name: str) -> str:
    if not isinstance(values.get(name), str):
        raise ValueError(f"has no text {name!r}; it has {', '.join(map(repr, values))}")
    return str(values[name])


def _list(values: Mapping[str, Any], name: str) -> list[Any]:
    found = values.get(name)
    if not isinstance(found, list | tuple) or not found:
        raise ValueError(f"has no list {name!r}; it has {', '.join(map(repr, values))}")
    return list(found)


def _place(values: Mapping[str, Any], name: str, labels: list[str]) -> int:
    label = str(values.get(name))
    if label not in labels:
        raise ValueError(f"{name!r} is {label!r}, not one of {', '.join(labels)}")
    return labels.index(label)
