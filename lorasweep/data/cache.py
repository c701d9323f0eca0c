"""A cache of tokenised rows: the same rows, tokenizer and settings are never tokenised twice."""

import json
import os
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from lorasweep.core.files import write_bytes, write_json
from lorasweep.core.spec import digest
from lorasweep.data.formats import Example
from lorasweep.data.render import TokenRow

T = TypeVar("T")


def cache_dir() -> Path:
    """Return the folder for files that can be recreated: `LORASWEEP_CACHE`, or the user's cache folder."""
    base = os.environ.get("LORASWEEP_CACHE")
    if base:
        return Path(base)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "lorasweep"


def remembered(file: Path | None, make: Callable[[], T], read: Callable[[Any], T], write: Callable[[T], Any]) -> T:
    """Return the value that is stored in a JSON file, or make and store it. A damaged file is replaced.

    `read` raises if the JSON is not what `write` returns. Without a file nothing is stored.
    """
    if file is None:
        return make()
    try:
        return read(json.loads(file.read_text()))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        value = make()
    write_json(file, write(value))
    return value


def cached_rows(
    examples: Sequence[Example], tokenizer_key: str, max_length: int, make: Callable[[], list[TokenRow]]
) -> list[TokenRow]:
    """Return the rows from the cache, or create and store them. A damaged file is replaced."""
    path = cache_dir() / "tokens" / f"{digest([_content(examples), tokenizer_key, max_length, FORMAT])}.json.z"
    if path.is_file():
        try:
            return _load(path.read_bytes())
        except (ValueError, KeyError, TypeError, IndexError, RecursionError, zlib.error):
            path.unlink(missing_ok=True)
    rows = make()
    write_bytes(path, _dump(rows))
    return rows


FORMAT = 4  # increase it when the meaning of a row changes

# Fields of an example that do not affect its tokens, each with the reason.
NOT_IN_TOKENS = {
    "where": "it is used in messages only",
    "question": "it is used by splits only",
}


def _content(examples: Sequence[Example]) -> list[list[object]]:
    """Return every field of each example except those in `NOT_IN_TOKENS`."""
    return [
        [e.prompt, e.completion, e.messages, e.options, e.option_prompts, e.row, e.extras, e.tools] for e in examples
    ]


def _dump(rows: Sequence[TokenRow]) -> bytes:
    options = list(dict.fromkeys((row.options, row.option_bytes) for row in rows))
    places = {o: i for i, o in enumerate(options)}
    flat = [
        [r.ids, [int(x) for x in r.is_label], r.prompt_length, places[r.options, r.option_bytes], r.target, r.reference,
         r.prompt, r.is_truncated, r.row, r.num_bytes, r.option_prompts] for r in rows
    ]  # fmt: skip
    return zlib.compress(json.dumps({"options": options, "rows": flat}, separators=(",", ":")).encode(), level=1)


def _load(data: bytes) -> list[TokenRow]:
    raw = json.loads(zlib.decompress(data))
    options = [(tuple(tuple(o) for o in group), tuple(sizes)) for group, sizes in raw["options"]]
    return [
        TokenRow(
            ids=tuple(ids),
            is_label=tuple(map(bool, labels)),
            prompt_length=prompt_length,
            options=options[place][0],
            option_bytes=options[place][1],
            option_prompts=tuple(map(tuple, prompts)),
            target=target,
            reference=reference,
            prompt=prompt,
            is_truncated=is_truncated,
            row=row,
            num_bytes=num_bytes,
        )
        for ids, labels, prompt_length, place, target, reference, prompt, is_truncated, row, num_bytes, prompts in raw[
            "rows"
        ]
    ]
