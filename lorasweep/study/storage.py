"""Open the storage of an Optuna study."""

import logging
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import optuna
from sqlalchemy import event

from lorasweep.core.errors import is_disk_full
from lorasweep.core.files import provision, set_aside, sqlite_url

log = logging.getLogger(__name__)

Direction = Literal["maximize", "minimize"]


def open_study(path: Path, direction: Direction, pruner: optuna.pruners.BasePruner) -> optuna.Study:
    """Open the study. If it cannot be read, rename it and create a new one, which the ledger fills."""
    provision(path, _create)
    try:
        return _open(path, direction, pruner)
    except Exception as error:  # from Optuna, SQLAlchemy or SQLite
        if is_disk_full(error) or "locked" in str(error):
            raise
        aside = set_aside(path)
        log.warning("%s cannot be read (%s); it is kept as %s and rebuilt from the results", path, error, aside)
    provision(path, _create)
    return _open(path, direction, pruner)


def _open(path: Path, direction: Direction, pruner: optuna.pruners.BasePruner) -> optuna.Study:
    storage = optuna.storages.RDBStorage(sqlite_url(path))
    event.listen(storage.engine, "connect", _set_pragmas)
    storage.engine.dispose()  # the connection that it already has
    study = optuna.create_study(
        study_name="sweep", storage=storage, direction=direction, load_if_exists=True, pruner=pruner
    )
    study.get_trials(deepcopy=False)
    return study


def _set_pragmas(connection: Any, _record: object) -> None:
    """Do not wait for the disk at each of the ten commits of a trial (https://www.sqlite.org/wal.html, section 2).

    After a power failure the last commits may be missing, which the ledger then repeats; a killed process loses none.
    """
    with suppress(sqlite3.OperationalError):  # some network file systems cannot; the usual journal is kept
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")


def close_storage(study: optuna.Study) -> None:
    """Close all connections of a study that `open_study` returned."""
    storage = study._storage
    backend: Any = getattr(storage, "_backend", storage)  # Optuna caches finished trials around the database
    backend.remove_session()
    backend.engine.dispose()


def _create(path: Path) -> None:
    optuna.storages.RDBStorage(sqlite_url(path))
