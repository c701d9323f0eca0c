"""Data settings that are the same for all trials of a sweep, although swept settings could change them.

Trials are compared example by example, so every trial is scored on the same rows, truncated to the same length.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

from lorasweep.config.grammar import Choice, parse
from lorasweep.core.spec import DataSpec
from lorasweep.core.trial import Scalar


def shared_data(data: DataSpec, raw: Mapping[str, Any]) -> DataSpec:
    """Return the data settings of one point, completed by those that all points of the space share."""
    space = (raw.get("sweep") or {}).get("space") or {}
    swept = space.get("data") or {}
    lengths = [int(value) for value in _values("data.max_length", swept.get("max_length"))]
    return replace(
        data,
        eval_max_length=data.eval_max_length or max(lengths, default=data.max_length),
        templates=tuple(_text(value) for value in _values("data.template", swept.get("template"))),
    )


def _values(key: str, expression: Any) -> tuple[Scalar, ...]:
    """Return the values of a swept setting, both ends of an interval; empty if the setting is not swept."""
    if expression is None:
        return ()
    return _parsed(key, expression) if isinstance(expression, str) else (expression,)


@lru_cache(maxsize=64)  # called for every point of a space
def _parsed(key: str, expression: str) -> tuple[Scalar, ...]:
    domain = parse(key, expression)
    return domain.values if isinstance(domain, Choice) else (domain.low, domain.high)


def _text(value: Scalar) -> str:
    return "" if value == "none" else str(value)
