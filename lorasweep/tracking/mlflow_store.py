"""MLflow's client and store."""

import logging
import os
import re
from pathlib import Path
from typing import Any

from lorasweep.core.files import provision, sqlite_url


def place(uri: str | None) -> tuple[str, Path | None]:
    """Return the tracking URI, and the file of an embedded store; by default the one that `mlflow ui` shows."""
    if uri is not None and not uri.startswith("sqlite:///"):
        return uri, None
    path = Path("mlflow.db" if uri is None else uri.removeprefix("sqlite:///")).absolute()
    return sqlite_url(path), path


def make_client(uri: str, database: Path | None) -> Any:
    """Import MLflow and return its client; an embedded store is created first, so that none is left half made."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # By default a call to an unreachable server blocks for four minutes, and a run whose response was lost is created
    # again. Here only the tracking queue retries, and it searches for the run first.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # two lines for every trial
    from mlflow import MlflowClient

    # Importing MLflow configures its loggers, which would log every table that they create.
    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it logs errors that it also raises
    if database:
        provision(database, create_database)
    return MlflowClient(uri)


def create_database(path: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore(sqlite_url(path), str(path.parent))  # type: ignore[no-untyped-call]
    store.engine.dispose()


def is_unreachable(error: Exception) -> bool:
    """Return whether a tracking server is unreachable for now; any other error is permanent."""
    from mlflow.exceptions import MlflowException, RestException

    if isinstance(error, RestException):
        return int(error.get_http_status_code()) >= 500  # type: ignore[no-untyped-call]
    says = re.match(r"API request to .* failed with (exception|error code 5\d\d)", str(error), re.DOTALL)
    return isinstance(error, MlflowException) and says is not None
