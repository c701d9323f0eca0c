"""Frozen values with one changed field, for tests that digests cover every field."""

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")


def changed(value: T) -> Iterator[tuple[str, T]]:
    """Yield the value with each of its fields changed, by the field's name."""
    hints = get_type_hints(type(value))
    for field in fields(value):  # type: ignore[arg-type]
        other = _other(hints[field.name], getattr(value, field.name))
        yield field.name, replace(value, **{field.name: other})  # type: ignore[type-var]


def _other(hint: Any, value: Any) -> Any:
    """Return another value of the type."""
    if get_origin(hint) is Literal:
        return next(option for option in get_args(hint) if option != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, tuple):
        return value[1:] if value else ("other",)
    options = {str: f"{value}-other", int: 7, float: 0.5}
    return next(option for kind, option in options.items() if kind in (hint, *get_args(hint)))
