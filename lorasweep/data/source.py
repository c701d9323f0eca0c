"""Read the rows of a data set from a local file or the hub, each with its file and line.

A source is written `path/to/file.jsonl`, `path/to/file.csv[:500]`, `hub/id:train[:5%]` or `hub/id:config:train`.
"""

import csv
import difflib
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorasweep.core.errors import DataError, HubUnreachable
from lorasweep.core.hub import unreachable_note
from lorasweep.core.spec import DEMO_FILES

PACKAGE = Path(__file__).resolve().parent.parent
SUFFIXES = (".json", ".jsonl", ".csv", ".tsv", ".txt")
BAD_SHARE = 0.01  # with a larger share of malformed rows a file is refused


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One row and its place in the file, for messages: `train.jsonl:17`."""

    where: str
    values: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a source, and a sentence for each skipped row."""

    rows: tuple[SourceRow, ...]
    skipped: tuple[str, ...] = ()


def read_rows(source: str) -> Rows:
    """Return the rows of a source.

    Raises:
        DataError: the file is missing, empty, or more than 1 % of its rows are malformed.
    """
    path, part = split_source(source)
    rows = _read_local(path) if _is_local(path) else _read_hub(source)
    if not rows.rows:
        raise DataError(f"{source}: holds no rows")
    return Rows(_slice(rows.rows, part), rows.skipped) if _is_local(path) else rows


def split_source(source: str) -> tuple[str, str]:
    """Return path and slice: `a.csv[:5%]` is `a.csv` and `:5%`."""
    match = re.fullmatch(r"(.*?)(?:\[([^\]]*)\])?", source)
    assert match is not None
    return match.group(1), match.group(2) or ""


def local_path(path: str) -> Path:
    """Return the path of a file; `demo:` is the folder of the data that ships with the package."""
    if path.startswith(DEMO_FILES):
        return PACKAGE / "demo" / "data" / path.removeprefix(DEMO_FILES)
    return Path(path).expanduser()


def _is_local(path: str) -> bool:
    return path.startswith(DEMO_FILES) or local_path(path).exists() or Path(path).suffix.lower() in SUFFIXES


def _slice(rows: tuple[SourceRow, ...], part: str) -> tuple[SourceRow, ...]:
    if not part:
        return rows
    match = re.fullmatch(r"(\d+%?)?:(\d+%?)?", part)
    if match is None:
        raise DataError(f"[{part}]: not a slice; write [:500], [100:200] or [:5%]")
    start, stop = (_bound(text, len(rows)) for text in match.groups())
    return rows[slice(start, stop)]


def _bound(text: str | None, count: int) -> int | None:
    if text is None:
        return None
    return round(int(text[:-1]) * count / 100) if text.endswith("%") else int(text)


def _read_local(path: str) -> Rows:
    file = local_path(path)
    if not file.is_file():
        names = sorted(p.name for p in file.parent.glob("*") if p.suffix in SUFFIXES)
        close = difflib.get_close_matches(file.name, names, n=1)
        meant = f"; did you mean {close[0]!r}?" if close else ""
        beside = f"{meant}; in the same folder: {', '.join(names[:8])}" if names else ""
        raise DataError(f"{path}: no such file (looked for {file.absolute()}){beside}")
    suffix = file.suffix.lower()
    if suffix not in READERS:
        raise DataError(f"{path}: unknown file type; convert it to one of {', '.join(SUFFIXES)}")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text at byte {error.start}; save the file as UTF-8") from error
    return READERS[suffix](path, text)


def _read_jsonl(path: str, text: str) -> Rows:
    rows, bad = [], []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            bad.append(f"{path}:{number}: not JSON ({error.msg} at column {error.colno})")
            continue
        if isinstance(value, dict):
            rows.append(SourceRow(f"{path}:{number}", value))
        else:
            bad.append(f"{path}:{number}: a row must be an object such as {{...}}, not {type(value).__name__}")
    return Rows(tuple(rows), accept(path, bad, len(rows)))


def _read_json(path: str, text: str) -> Rows:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # JSON lines in a .json file, which is common
            return _read_jsonl(path, text)
        raise DataError(f"{path}:{error.lineno}: not JSON ({error.msg} at column {error.colno})") from error
    if isinstance(value, dict):
        value = next((v for v in value.values() if isinstance(v, list)), [value])
    if not isinstance(value, list):
        raise DataError(f"{path}: must hold a list of objects")
    bad = [f"{path}: item {i}: must be an object" for i, item in enumerate(value, 1) if not isinstance(item, dict)]
    rows = [SourceRow(f"{path}: item {i}", item) for i, item in enumerate(value, 1) if isinstance(item, dict)]
    return Rows(tuple(rows), accept(path, bad, len(rows)))


def _read_csv(path: str, text: str, delimiter: str = ",") -> Rows:
    rows, bad = [], []
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    for where, values in _csv_lines(path, reader):
        if None in values or None in values.values():
            columns = len(reader.fieldnames or ())
            bad.append(f"{where}: does not have the {columns} columns of the header; quote texts with a {delimiter!r}")
        else:
            rows.append(SourceRow(where, values))
    return Rows(tuple(rows), accept(path, bad, len(rows)))


def _csv_lines(path: str, reader: "csv.DictReader[str]") -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        for values in reader:
            yield f"{path}:{reader.line_num}", values
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: not CSV ({error}); look for an unclosed quote") from error


def _read_tsv(path: str, text: str) -> Rows:
    return _read_csv(path, text, "\t")


def _read_text(path: str, text: str) -> Rows:
    blocks = [block for block in re.split(r"\n\s*\n", text) if block.strip()]
    return Rows(tuple(SourceRow(f"{path}: block {i}", {"text": b}) for i, b in enumerate(blocks, 1)))


READERS = {".json": _read_json, ".jsonl": _read_jsonl, ".csv": _read_csv, ".tsv": _read_tsv, ".txt": _read_text}


def accept(path: str, bad: list[str], num_good: int) -> tuple[str, ...]:
    """Return the sentences about malformed rows if these are few.

    Raises:
        DataError: too many rows are malformed; names the first of them.
    """
    if len(bad) > BAD_SHARE * (len(bad) + num_good):
        more = f"\n  and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise DataError(f"{path}: {len(bad)} malformed rows:\n  " + "\n  ".join(bad[:5]) + more)
    return tuple(bad)


def _read_hub(source: str) -> Rows:
    away = unreachable_note()
    import datasets

    path, part = split_source(source)
    name, _, rest = path.partition(":")
    config, _, split = rest.rpartition(":")
    split = (split or "train") + (f"[{part}]" if part else "")
    datasets.disable_progress_bars()
    try:
        table = datasets.load_dataset(name, config or None, split=split)
    except Exception as error:  # the hub client raises many types; each means that there is no data
        if away:
            raise HubUnreachable(f"{source}: cannot be read{away}") from error
        raise DataError(
            f"{source}: neither a local file nor a readable hub data set ({type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else ''}); write for example tatsu-lab/alpaca:train[:5%]"
        ) from error
    return Rows(tuple(SourceRow(f"{source}: row {i}", dict(row)) for i, row in enumerate(table, 1)))
