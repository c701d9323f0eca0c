"""Files are written aside, flushed and renamed: a reader sees the old content or the new, never a half."""

import json
import os
import re
import tempfile
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def write_bytes(path: Path, data: bytes) -> None:
    """Put `data` at `path` in one step, making its folder where needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not mkstemp, whose files only their owner may read: results are shared.
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with aside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Put UTF-8 text at `path` in one step."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Put a JSON object at `path` in one step."""
    write_text(path, json.dumps(value, indent=1, default=str) + "\n")


def provision(path: Path, create: Callable[[Path], None]) -> None:
    """Have a database made aside and renamed: a process killed half-way leaves none rather than a broken one."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        aside = Path(folder) / path.name
        create(aside)
        try:
            os.link(aside, path)  # unlike a rename it never replaces one that another process made meanwhile
        except FileExistsError:
            return
        except OSError:
            aside.replace(path)


def sqlite_url(path: Path) -> str:
    """Return a database file's URL, whose `%` and `?` are escaped where SQLAlchemy reads them so."""
    from sqlalchemy import URL

    return URL.create("sqlite", database=str(path)).render_as_string()


NAMED_LIKE_SECRETS = r"token|secret|passw(?:or)?d|api_?key|access_?key|private_?key|credential"
SHORTEST = 8  # what is shorter may be any word


def redact(text: str) -> str:
    """Hide secrets before text is kept or shown.

    Passwords in addresses, values of settings that are named like secrets, and the values that variables of the
    environment with such names have, wherever they stand.
    """
    for value in sorted(secrets().values(), key=len, reverse=True):
        text = text.replace(value, "***")
    text = re.sub(r"(://)[^/@\s]+@", r"\1***@", text)
    return re.sub(rf"(?im)^(\s*[\w.]*(?:{NAMED_LIKE_SECRETS})[\w.]*\s*[:=]\s*)\S+", r"\1***", text)


def secrets() -> dict[str, str]:
    """Return the environment's secrets by name. Paths are none, whatever their name."""
    return {
        name: value
        for name, value in os.environ.items()
        if re.search(NAMED_LIKE_SECRETS, name, re.IGNORECASE) and len(value) >= SHORTEST and not value.startswith("/")
    }
