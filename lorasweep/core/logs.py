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
    set_environment()


def set_environment() -> None:
    """Set the variables that libraries read when they are imported, unless the user has set them."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # Waiting threads that spin for long halve the speed of a busy machine. Threads that sleep at once need longer to
    # wake up than a small operation takes.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def quiet_libraries() -> None:
    """Show only errors of libraries that log every kernel or table; leave the loggers of the program as they are."""
    for name in ("bitsandbytes", "alembic", "mlflow", "httpx", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("sqlalchemy").setLevel(logging.CRITICAL)  # it logs errors that it also raises
