"""Open the storage of an Optuna study."""

import logging
from pathlib import Path
from typing import Literal

import optuna

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
    study = optuna.create_study(
        study_name="sweep", storage=storage, direction=direction, load_if_exists=True, pruner=pruner
    )
    study.get_trials(deepcopy=False)
    return study


def _create(path: Path) -> None:
    optuna.storages.RDBStorage(sqlite_url(path))
