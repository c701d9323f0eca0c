"""Keys of rows, computed from the file's content before any template or tokenizer is applied.

Splits and comparisons use these keys, so that no swept setting changes which examples are trained on, which are scored,
and which are equal.
"""

import string
from collections.abc import Mapping
from typing import Any

from lorasweep.core.spec import DataSpec, digest

PROMPT_KEYS = ("prompt", "question", "input", "instruction")
TEXT_KEYS = ("text", "sentence", "question", "content")
LABEL_KEYS = ("label", "category", "intent", "class")
NAMED = ("alpaca", "plain")  # named templates of the alpaca format


def row_name(values: Mapping[str, Any]) -> str:
    """Return a digest of the whole row."""
    return digest(dict(values))


def question_name(values: Mapping[str, Any], spec: DataSpec) -> str:
    """Return a digest of the row's question: the columns that every template of the sweep uses.

    Questions that are equal under one template are equal in these columns too, so they stay in the same split.
    """
    templates = spec.templates or (spec.template or "",)
    columns = set.intersection(*(_columns(template, values, spec) for template in templates))
    return digest({name: "" if values.get(name) is None else str(values[name]) for name in columns})


def columns_of(template: str) -> list[str]:
    """Return the columns that a template names; an empty name for an empty pair of braces."""
    return [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]


def text_keys(spec: DataSpec) -> tuple[str, ...]:
    """Return the columns that may hold the text of a classification row, in order of preference."""
    return (spec.text_column,) if spec.text_column else TEXT_KEYS


def first_key(values: Mapping[str, Any], keys: tuple[str, ...]) -> str:
    """Return the first key that the row has, or the first key if it has none."""
    return next((key for key in keys if key in values), keys[0])


def _columns(template: str, values: Mapping[str, Any], spec: DataSpec) -> set[str]:
    text = first_key(values, text_keys(spec)) if spec.format == "classification" else "text"
    named = [] if template in NAMED else columns_of(template)
    if named:
        return {text if name == "text" else name for name in named}
    if spec.format == "alpaca":
        return {"instruction", "input"}
    return {text} if spec.format == "classification" else {first_key(values, PROMPT_KEYS)}
