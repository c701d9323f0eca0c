"""Write files atomically: a reader sees the old content or the new content, never a part."""

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
    """Write `data` to `path` atomically; create the folder if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # mkstemp would make the file readable by its owner only; results are shared.
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with aside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if path.is_dir():  # a folder is in the file's place
            set_aside(path)
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def set_aside(path: Path) -> str:
    """Rename a file or folder to `NAME.broken-TIME`; return the new name."""
    name = f"{path.name}.broken-{time.time():.0f}"
    aside = path.with_name(name if not path.with_name(name).exists() else f"{name}-{uuid.uuid4().hex[:8]}")
    path.rename(aside)
    for journal in _journals(path):
        if journal.exists():
            journal.rename(aside.with_name(journal.name.replace(path.name, aside.name, 1)))
    return aside.name


def _journals(path: Path) -> tuple[Path, ...]:
    """Return the files beside a SQLite database that hold its last changes."""
    return tuple(path.with_name(f"{path.name}{suffix}") for suffix in ("-wal", "-shm", "-journal"))


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text to `path` atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object to `path` atomically."""
    write_text(path, json.dumps(value, indent=1, default=str) + "\n")


def provision(path: Path, create: Callable[[Path], None]) -> None:
    """Create a database under a temporary name and rename it, so that a killed process leaves no broken database."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    for journal in _journals(path):
        journal.unlink(missing_ok=True)  # of a database that was deleted: SQLite would apply it to the new one
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        aside = Path(folder) / path.name
        create(aside)
        try:
            os.link(aside, path)  # unlike a rename, this never replaces a file that another process has just created
        except FileExistsError:
            return
        except OSError:
            aside.replace(path)


def sqlite_url(path: Path) -> str:
    """Return the SQLAlchemy URL of a database file, with `%` and `?` escaped."""
    from sqlalchemy import URL

    return URL.create("sqlite", database=str(path)).render_as_string()


# Names of variables and settings whose values are secret.
SECRET_NAMES = (
    r"token(?!s\b|_?i[sz])|secret|passw(?:or)?d|passphrase|pgpass|(?:^|[_.])pass$|_pwd$|api_?key|private_?key|access_?key"
    r"|_key(?:_|$)|(?:^|_)pat$|credential|(?:^|_)dsn(?:_|$)|webhook|cookie|bearer|(?:^|_)jwt(?:_|$)|(?:^|_)auth$"
    r"|database_url|connection_string"
)
SHORTEST = 8  # a shorter value may be an ordinary word
# Token settings of a tokenizer, and values that are never secret, whatever the name of their setting.
PLAIN_SETTINGS = r"(?:\w+[_.])*(?:end|pad|eos|bos|unk)_token"
PLAIN_VALUES = r"(?:true|false|null|none|[-+]?[\d.,]+(?:e[-+]?\d+)?)\b"


def redact(text: str) -> str:
    """Replace secrets by `***`: those of `redact_values`, and values of settings whose names suggest a secret."""
    return re.sub(r"(?im)^(\s*)([\w.]+)(\s*[:=]\s*)(\S+)", _without_secret, redact_values(text))


def redact_values(text: str) -> str:
    """Replace passwords in URLs, and the values of secret environment variables, by `***`."""
    for value in sorted(secrets().values(), key=len, reverse=True):
        text = text.replace(value, "***")
    return re.sub(r"(://)[^/@\s]+@", r"\1***@", text)


def secrets() -> dict[str, str]:
    """Return the secret environment variables by name. A path is never a secret."""
    return {
        name: value
        for name, value in os.environ.items()
        if is_secret_name(name) and len(value) >= SHORTEST and not value.startswith("/")
    }


def is_secret_name(name: str) -> bool:
    """Return whether a variable or setting of this name holds a secret."""
    return re.search(SECRET_NAMES, name, re.IGNORECASE) is not None


def _without_secret(line: re.Match[str]) -> str:
    space, name, sign, value = line.groups()
    is_plain = re.fullmatch(PLAIN_SETTINGS, name, re.IGNORECASE) or re.match(PLAIN_VALUES, value, re.IGNORECASE)
    return line[0] if is_plain or not is_secret_name(name) else f"{space}{name}{sign}***"
