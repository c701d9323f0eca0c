"""Logging: warnings and errors only, without secrets."""

import logging
import os
import warnings

from lorasweep.core.files import redact


class _RedactingFormatter(logging.Formatter):
    """Redacts secrets: a warning may quote a client's error, and with it the request."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line without secrets."""
        return redact(super().format(record))


def quiet() -> None:
    """Silence the start-up messages of dependencies; errors are still shown."""
    handler = logging.StreamHandler()
    handler.setFormatter(_RedactingFormatter("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    quiet_libraries()
    warnings.filterwarnings("ignore", category=FutureWarning)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")


def quiet_libraries() -> None:
    """Show only errors of libraries that log every kernel or table; leave the loggers of the program as they are."""
    for name in ("bitsandbytes", "alembic", "mlflow", "httpx", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("sqlalchemy").setLevel(logging.CRITICAL)  # it logs errors that it also raises
