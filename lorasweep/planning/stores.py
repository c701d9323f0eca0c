"""Check, without writing, that results can be written where the settings say."""

import os
from pathlib import Path
from urllib.parse import urlsplit

from lorasweep.config.settings import SweepConfig
from lorasweep.core.files import redact

SQLITE = b"SQLite format 3\0"  # https://www.sqlite.org/fileformat.html, section 1.3
SCHEMES = ("sqlite", "http", "https", "file", "postgresql", "mysql", "mssql", "databricks")


def store_problems(config: SweepConfig) -> list[str]:
    """Return the problems of the run folder's location and of the tracking URI."""
    tracked = _tracker_problems(config.tracking.uri) if config.tracking.backend == "mlflow" else []
    return [
        *_folder_problems("output_dir", Path(config.output_dir).expanduser(), "name a folder of your own"),
        *tracked,
    ]


def _tracker_problems(uri: str | None) -> list[str]:
    if uri is None:
        found = _folder_problems("tracking.uri", Path.cwd(), "set tracking.uri=sqlite:///PATH, or tracking=none")
        return found or _file_problems(Path("mlflow.db").absolute())
    scheme, colon, rest = uri.partition("://")
    if not colon:
        return []  # a folder, or a keyword of MLflow
    if scheme.split("+")[0] not in SCHEMES:
        return [f"tracking.uri: {redact(uri)} must start with one of {', '.join(s + '://' for s in SCHEMES)}"]
    if scheme == "sqlite":
        file = Path(rest.removeprefix("/")).absolute()
        return _folder_problems("tracking.uri", file.parent, "name another file") or _file_problems(file)
    if scheme in ("http", "https") and not urlsplit(uri).hostname:
        return [f"tracking.uri: {redact(uri)} names no host; write for example http://127.0.0.1:5000"]
    return []


def _file_problems(file: Path) -> list[str]:
    """Return why a file cannot be an embedded store: it does not begin as SQLite's files do."""
    if not file.is_file() or file.stat().st_size == 0:
        return []
    with file.open("rb") as handle:
        is_sqlite = handle.read(len(SQLITE)) == SQLITE
    return [] if is_sqlite else [f"tracking.uri: {file} is no SQLite database; name another file, or set tracking=none"]


def _folder_problems(key: str, folder: Path, remedy: str) -> list[str]:
    """Return why a folder cannot be written to; if it does not exist, check the nearest existing parent."""
    above = folder.absolute()
    while not above.exists() and above != above.parent:
        above = above.parent
    if not above.is_dir():
        return [f"{key}: {above} is a file, not a folder; {remedy}"]
    return [] if os.access(above, os.W_OK | os.X_OK) else [f"{key}: {above} cannot be written to; {remedy}"]
