"""Search spaces in Hydra's own sweep grammar, read by Hydra's own parser.

`choice(4, 8)`, `4,8`, `range(1, 9)`, `int(interval(1, 64))`, `tag(log, interval(1e-5, 1e-2))` become domains. A plain
value pins the setting.
"""

import logging
from dataclasses import dataclass
from typing import Any

Scalar = str | int | float | bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One of these values; lists are written as their override text, such as `[q_proj,v_proj]`."""

    values: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """Numbers from `low` to `high`, both included."""

    low: float
    high: float
    is_int: bool = False
    is_log: bool = False
    step: float | None = None


Domain = Choice | Interval


def parse(key: str, text: Any) -> Domain:
    """Return the domain of an expression.

    Raises:
        ValueError: the expression is malformed or means something that a study cannot sample; says what to write.
    """
    if not isinstance(text, str):
        return Choice(values=(_scalar(text),))
    value, encoded = _hydra_value(key, text)
    kind = type(value).__name__
    if kind == "IntervalSweep":
        return _interval(value)
    if kind == "RangeSweep":
        return _range(value)
    if kind == "ChoiceSweep":
        return _choice(value, encoded)
    return Choice(values=(_scalar(value),))


def sweeps(override: str) -> tuple[str, str] | None:
    """Return key and expression of a command-line override that is a sweep, None for any other."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_override(override)
    except HydraException:
        return None
    if not parsed.is_sweep_override() or parsed.is_delete():
        return None
    return parsed.key_or_group, override.split("=", 1)[1]


def is_pin(override: str) -> str | None:
    """Return the key of a plain `key=value` override, None for any other."""
    key, equals, _ = override.partition("=")
    return key.lstrip("+") if equals and not key.startswith("~") and sweeps(override) is None else None


def _hydra_value(key: str, text: str) -> tuple[Any, list[Scalar]]:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Transformer
    from hydra.errors import HydraException

    logging.getLogger("hydra").setLevel(logging.ERROR)
    try:
        override = OverridesParser.create().parse_override(f"{key}={text}")
        is_choice = type(override.value()).__name__ == "ChoiceSweep"
        values = list(override.sweep_iterator(transformer=Transformer.encode)) if is_choice else []
    except (HydraException, TypeError, ValueError) as error:
        raise ValueError(f"{text!r} cannot be read as a Hydra sweep ({_first_line(error)}); {HINT}") from error
    return override.value(), [_typed(v) for v in values]


HINT = "write for example choice(4,8), int(interval(1,64)) or tag(log, interval(1e-5,1e-2)), and `none` for null"


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _typed(value: Any) -> Scalar:
    """Numbers and booleans that were encoded as override text become values again."""
    import yaml

    if not isinstance(value, str) or value.startswith(("[", "{")):
        return _scalar(value)
    try:
        return (
            float(value) if _is_number(value) and not value.lstrip("+-").isdigit() else _scalar(yaml.safe_load(value))
        )
    except yaml.YAMLError:
        return value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _scalar(value: Any) -> Scalar:
    if isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, list | tuple):
        return "[" + ",".join(str(v) for v in value) + "]"
    if value is None:
        return "none"
    return str(value)


def _interval(value: Any) -> Interval:
    low, high = value.start, value.end
    if not low < high:
        raise ValueError(f"interval({low}, {high}) is empty; its first bound must be below its second")
    is_log = "log" in value.tags
    if is_log and low <= 0:
        raise ValueError(f"a log interval must start above 0, not at {low}")
    return Interval(low=low, high=high, is_int=isinstance(low, int), is_log=is_log)


def _range(value: Any) -> Choice | Interval:
    if value.shuffle:
        raise ValueError("shuffle() is not seeded, so a sweep could not be repeated; leave it out")
    numbers = list(value.range())
    if not numbers:
        raise ValueError(f"range({value.start}, {value.stop}) is empty; the stop is not part of a range")
    is_int = all(isinstance(n, int) for n in numbers)
    if len(numbers) == 1:
        return Choice(values=(numbers[0],))
    return Interval(low=numbers[0], high=numbers[-1], is_int=is_int, step=value.step)


def _choice(value: Any, encoded: list[Scalar]) -> Choice:
    if value.shuffle:
        raise ValueError("shuffle() is not seeded, so a sweep could not be repeated; leave it out")
    return Choice(values=tuple(dict.fromkeys(encoded)))
