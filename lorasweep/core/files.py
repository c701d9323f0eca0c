"""Files are written aside, flushed and renamed: a reader sees the old content or the new, never a half."""

import json
import os
import re
import tempfile
import time
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
        if path.is_dir():  # where a file of ours belongs
            set_aside(path)
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def set_aside(path: Path) -> str:
    """Rename a broken file, or a folder in its place, to `NAME.broken-TIME`; return the new name."""
    name = f"{path.name}.broken-{time.time():.0f}"
    aside = path.with_name(name if not path.with_name(name).exists() else f"{name}-{uuid.uuid4().hex[:8]}")
    path.rename(aside)
    return aside.name


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


# Names of variables and settings whose values are secrets.
SECRET_NAMES = (
    r"token(?!s\b|_?i[sz])|secret|passw(?:or)?d|passphrase|pgpass|(?:^|[_.])pass$|_pwd$|api_?key|private_?key|access_?key"
    r"|_key(?:_|$)|(?:^|_)pat$|credential|(?:^|_)dsn(?:_|$)|webhook|cookie|bearer|(?:^|_)jwt(?:_|$)|(?:^|_)auth$"
    r"|database_url|connection_string"
)
SHORTEST = 8  # what is shorter may be any word
# Tokens of a text, and values that are no secret whatever their setting is called.
PLAIN_SETTINGS = r"(?:\w+[_.])*(?:end|pad|eos|bos|unk)_token"
PLAIN_VALUES = r"(?:true|false|null|none|[-+]?[\d.,]+(?:e[-+]?\d+)?)\b"


def redact(text: str) -> str:
    """Hide secrets before text is shown: see `redact_values`, and values of settings that are named like secrets."""
    return re.sub(r"(?im)^(\s*)([\w.]+)(\s*[:=]\s*)(\S+)", _without_secret, redact_values(text))


def redact_values(text: str) -> str:
    """Hide passwords in addresses, and the values of the environment's secrets, wherever they stand."""
    for value in sorted(secrets().values(), key=len, reverse=True):
        text = text.replace(value, "***")
    return re.sub(r"(://)[^/@\s]+@", r"\1***@", text)


def secrets() -> dict[str, str]:
    """Return the environment's secrets by name. Shortcuts are none, whatever their name."""
    return {
        name: value
        for name, value in os.environ.items()
        if is_secret_name(name) and len(value) >= SHORTEST and not value.startswith("/")
    }


def is_secret_name(name: str) -> bool:
    """Tell whether a variable or a setting of this name holds a secret."""
    return re.search(SECRET_NAMES, name, re.IGNORECASE) is not None


def _without_secret(line: re.Match[str]) -> str:
    space, name, sign, value = line.groups()
    is_plain = re.fullmatch(PLAIN_SETTINGS, name, re.IGNORECASE) or re.match(PLAIN_VALUES, value, re.IGNORECASE)
    return line[0] if is_plain or not is_secret_name(name) else f"{space}{name}{sign}***"
