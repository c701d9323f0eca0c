"""Search spaces in Hydra's sweep grammar, parsed by Hydra.

`choice(4, 8)`, `4,8`, `range(1, 9)`, `int(interval(1, 64))`, `tag(log, interval(1e-5, 1e-2))` become domains. A plain
value fixes the setting.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from lorasweep.core.trial import Scalar


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
        ValueError: the expression is malformed, or a study cannot sample it; the message says what to write.
    """
    if isinstance(text, list) and not all(isinstance(word, str) for word in text):
        raise ValueError(f"{text!r} is a list, not a search; {HINT}")
    if not isinstance(text, str):
        return Choice(values=(_scalar(text),))
    value = _hydra_value(key, text)
    kind = type(value).__name__
    if kind in READERS:
        return READERS[kind](value)
    return Choice(values=(_scalar(value),))


def swept_expression(override: str) -> tuple[str, str] | None:
    """Return key and expression of a command-line override if it is a sweep, else None."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_override(override)
    except HydraException:
        return None
    if not parsed.is_sweep_override() or parsed.is_delete():
        return None
    return parsed.key_or_group, override.split("=", 1)[1]


def pinned_key(override: str) -> str | None:
    """Return the key of a plain `key=value` override, None for any other."""
    key, equals, _ = override.partition("=")
    return key.lstrip("+") if equals and not key.startswith("~") and swept_expression(override) is None else None


def quoted(text: str) -> str:
    """Return text as Hydra's grammar takes it whatever it holds."""
    from hydra.core.override_parser.types import Quote, QuotedString

    return str(QuotedString(text=text, quote=Quote.double).with_quotes())


def _hydra_value(key: str, text: str) -> Any:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    logging.getLogger("hydra").setLevel(logging.ERROR)
    try:
        return OverridesParser.create().parse_override(f"{key}={text}").value()
    except (HydraException, TypeError, ValueError) as error:
        raise ValueError(f"{text!r} cannot be read as a Hydra sweep ({_first_line(error)}); {HINT}") from error


HINT = "write for example choice(4,8), int(interval(1,64)) or tag(log, interval(1e-5,1e-2)), and `none` for null"


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _scalar(value: Any) -> Scalar:
    """Return a value that Optuna can store: quoted text stays text, a list becomes its override text."""
    if type(value).__name__ == "QuotedString":
        return str(value.text)
    if isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, list | tuple):
        return "[" + ",".join(str(_scalar(v)) for v in value) + "]"
    if value is None:
        return "none"
    raise ValueError(f"{value!r} is not a valid value for a setting; {HINT}")


def _interval(value: Any) -> Interval:
    _check_tags(value, {"log"})
    low, high = value.start, value.end
    if not low < high:
        raise ValueError(f"interval({low}, {high}) is empty; its first bound must be below its second")
    is_log = "log" in value.tags
    if is_log and low <= 0:
        raise ValueError(f"a log interval must start above 0, not at {low}")
    return Interval(low=low, high=high, is_int=isinstance(low, int), is_log=is_log)


def _range(value: Any) -> Choice | Interval:
    _check_tags(value, set())
    if value.shuffle:
        raise ValueError(NO_SHUFFLE)
    numbers = sorted(_exact(value))
    if not numbers:
        raise ValueError(f"range({value.start}, {value.stop}) is empty; the stop is not part of a range")
    is_int = all(isinstance(n, int) for n in numbers)
    if len(numbers) == 1:
        return Choice(values=(numbers[0],))
    return Interval(low=numbers[0], high=numbers[-1], is_int=is_int, step=abs(value.step))


def _exact(value: Any) -> list[int | float]:
    """Return a range's numbers as decimals: 0.1 + 0.2 is 0.3, unlike in binary."""
    kind = int if all(isinstance(x, int) for x in (value.start, value.stop, value.step)) else float
    start, stop, step = (Decimal(str(x)) for x in (value.start, value.stop, value.step))
    count = max(0, math.ceil((stop - start) / step))
    return [kind(start + i * step) for i in range(count)]


def _choice(value: Any) -> Choice:
    _check_tags(value, set())
    if value.shuffle:
        raise ValueError(NO_SHUFFLE)
    values: dict[tuple[type, Scalar], Scalar] = {}
    for item in value.list:
        scalar = _scalar(item)
        values.setdefault((type(scalar), scalar), scalar)  # in Python True equals 1
    return Choice(values=tuple(values.values()))


def _glob(value: Any) -> Choice:
    raise ValueError(f"glob() matches files, not values; {HINT}")


NO_SHUFFLE = "shuffle() is not seeded, so a sweep could not be repeated; leave it out"


def _check_tags(value: Any, known: set[str]) -> None:
    if unknown := sorted(set(value.tags) - known):
        raise ValueError(f"unknown tag {unknown[0]!r}; only an interval takes a tag: tag(log, interval(...))")


READERS: dict[str, Callable[[Any], Domain]] = {
    "IntervalSweep": _interval,
    "RangeSweep": _range,
    "ChoiceSweep": _choice,
    "Glob": _glob,
}
