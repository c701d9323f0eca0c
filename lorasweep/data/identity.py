"""Name rows by what their file holds, before a template or a tokenizer has touched them.

Splits and comparisons rest on these names, so that no setting that a sweep varies can change which examples are
trained on, which are scored, and which count as the same.
"""

import string
from collections.abc import Mapping
from typing import Any

from lorasweep.core.spec import DataSpec, digest

PROMPT_KEYS = ("prompt", "question", "input", "instruction")
TEXT_KEYS = ("text", "sentence", "question", "content")
LABEL_KEYS = ("label", "category", "intent", "class")
NAMED = ("alpaca", "plain")  # templates of the alpaca format that have a name


def row_name(values: Mapping[str, Any]) -> str:
    """Return a digest of the whole row."""
    return digest(dict(values))


def question_name(values: Mapping[str, Any], spec: DataSpec) -> str:
    """Return a digest of what the row asks: the columns that every template of the sweep fills in.

    Equal questions of any one template are equal in these columns too, so they stay on one side of a split.
    """
    templates = spec.templates or (spec.template or "",)
    columns = set.intersection(*(_columns(template, values, spec) for template in templates))
    return digest({name: "" if values.get(name) is None else str(values[name]) for name in columns})


def columns_of(template: str) -> list[str]:
    """Return the columns that a template names; an empty name where it has an empty pair of braces."""
    return [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]


def text_keys(spec: DataSpec) -> tuple[str, ...]:
    """Return the columns that may hold the text of a classification row, the first choice first."""
    return (spec.text_column,) if spec.text_column else TEXT_KEYS


def first_key(values: Mapping[str, Any], keys: tuple[str, ...]) -> str:
    """Return the first of the keys that the row has; the first of all where it has none."""
    return next((key for key in keys if key in values), keys[0])


def _columns(template: str, values: Mapping[str, Any], spec: DataSpec) -> set[str]:
    text = first_key(values, text_keys(spec)) if spec.format == "classification" else "text"
    named = [] if template in NAMED else columns_of(template)
    if named:
        return {text if name == "text" else name for name in named}
    if spec.format == "alpaca":
        return {"instruction", "input"}
    return {text} if spec.format == "classification" else {first_key(values, PROMPT_KEYS)}
