"""Data in memory become files below the cache.

A file is named by its content: equal rows have one path, and so one run folder.
"""

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping
from os import PathLike
from typing import Any

from lorasweep.core.errors import DataError
from lorasweep.core.files import write_text
from lorasweep.data.cache import cache_dir

SPLITS = ("train", "validation", "test")
KINDS = "a DataFrame, a list of dicts, a datasets.Dataset or DatasetDict, or a path"


def sources_of(data: Any) -> dict[str, str]:
    """Return a source for each split of the data, writing rows in memory as JSON lines.

    Args:
        data: a path or hub id, a pandas DataFrame, an iterable of mappings such as a list of dicts or a
            `datasets.Dataset`; or a mapping from train, validation and test to any of these.

    Raises:
        DataError: no rows, columns without a name or with the same name, values that JSON cannot hold, unknown splits.
    """
    splits = data if isinstance(data, Mapping) else {"train": data}
    unknown = [name for name in splits if name not in SPLITS]
    if unknown or "train" not in splits:
        found = ", ".join(map(repr, splits)) or "nothing"
        raise DataError(f"data: holds {found}; name the splits train, and where there are any validation and test")
    return {split: _source(rows, f"data[{split!r}]") for split, rows in splits.items() if rows is not None}


def _source(rows: Any, name: str) -> str:
    if isinstance(rows, str | PathLike):
        return str(rows)
    lines = [_line(row, f"{name}: row {place}") for place, row in enumerate(_records(rows, name), 1)]
    if not lines:
        raise DataError(f"{name}: holds no rows")
    text = "".join(lines)
    path = cache_dir().absolute() / "rows" / f"rows-{hashlib.sha256(text.encode()).hexdigest()[:16]}.jsonl"
    if not path.is_file():
        write_text(path, text)
    return str(path)


def _records(rows: Any, name: str) -> Iterable[Any]:
    pandas = sys.modules.get("pandas")  # without it, nothing is a DataFrame
    if pandas is not None and isinstance(rows, pandas.DataFrame):
        if not rows.columns.is_unique:
            twice = ", ".join(map(repr, rows.columns[rows.columns.duplicated()].unique()))
            raise DataError(f"{name}: has several columns named {twice}; rename or drop them")
        missing = rows.astype(object).where(rows.notna(), None)
        records: list[Any] = missing.to_dict("records")
        return records
    if isinstance(rows, Iterable) and not isinstance(rows, bytes):
        return rows
    raise DataError(f"{name}: is of type {type(rows).__name__}; give {KINDS}")


def _line(row: Any, where: str) -> str:
    if not isinstance(row, Mapping):
        raise DataError(f"{where}: is of type {type(row).__name__}; a row must be a dict from column to value")
    odd = [column for column in row if not isinstance(column, str) or not column.strip()]
    if odd:
        raise DataError(f"{where}: the column {odd[0]!r} has no name; name every column by a text")
    try:
        return json.dumps(dict(row), ensure_ascii=False, allow_nan=False, default=_plain) + "\n"
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: {error}; give texts, numbers, lists and dicts") from error


def _plain(value: Any) -> Any:
    """Return what JSON can hold of a value of NumPy, pandas or Python's dates."""
    for method in ("tolist", "isoformat"):
        if hasattr(value, method):
            return getattr(value, method)()
    raise TypeError(f"{value!r} is of type {type(value).__name__}")
