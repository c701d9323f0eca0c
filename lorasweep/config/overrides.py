"""Settings as Python values become the overrides of the command line, so that both name the same run.

{"lora.r": [4, 8], "train": {"learning_rate": "tag(log,interval(1e-4,1e-2))"}}
lora.r=4,8  train.learning_rate=tag(log,interval(1e-4,1e-2))
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lorasweep.config.grammar import quoted
from lorasweep.config.space import SWEEPABLE
from lorasweep.core.errors import ConfigError

Overrides = Mapping[str, Any] | Sequence[str]

# What Hydra reads as it is meant without quotes: words, paths, numbers; and a search, which is a call.
PLAIN = re.compile(r"[\w./:@+-]+")
SEARCH = re.compile(r"(choice|range|interval|tag|int|float|sort|shuffle)\(.*\)", re.DOTALL)
MAPPINGS = ("eval.probes",)  # settings whose value is a mapping, not a section


def override_words(overrides: Overrides) -> list[str]:
    """Return overrides as words of the command line; strings are returned as they are.

    Below the sections that a sweep may vary, a list holds choices and a tuple is one value; elsewhere both are a value.

    Raises:
        ConfigError: a key that is no text, a list without choices, or a value of a type that no setting has.
    """
    if isinstance(overrides, str):
        return [overrides]
    if not isinstance(overrides, Mapping):
        return list(overrides)
    words, problems = [], []
    for key, value in _leaves(overrides):
        try:
            words.append(f"{key}={_value(key, value)}")
        except ValueError as error:
            problems.append(f"{key}: {error}")
    if problems:
        raise ConfigError(problems)
    return words


def _leaves(values: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and name not in MAPPINGS:
            yield from _leaves(value, f"{name}.")
        else:
            yield name, value


def _value(key: str, value: Any) -> str:
    if isinstance(value, list) and key.lstrip("+").split(".")[0] in SWEEPABLE:
        if not value:
            raise ValueError("the list holds no choice; give at least one value")
        return ",".join(map(_literal, value)) if len(value) > 1 else _literal(value[0])
    if isinstance(value, str) and SEARCH.fullmatch(value.strip()):
        return value
    return _literal(value)


def _literal(value: Any) -> str:
    """Return a value in Hydra's grammar."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return value if PLAIN.fullmatch(value) else quoted(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_literal, value))}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_literal(item)}" for key, item in value.items()) + "}"
    if hasattr(value, "item"):  # a scalar of NumPy
        value = value.item()
    if isinstance(value, int | float):
        return repr(value)
    if hasattr(value, "__fspath__"):
        return _literal(str(value))
    raise ValueError(f"{value!r} is of type {type(value).__name__}; give text, a number, true or false, or a list")
