"""What processes of ours may say: what matters, and no secrets."""

import logging
import os
import warnings

from lorasweep.core.files import redact


class _Discreet(logging.Formatter):
    """A warning may quote the error of a client, and that its request."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line without secrets."""
        return redact(super().format(record))


def quiet() -> None:
    """Keep the dependencies' start-up chatter out of the user's terminal; what matters comes as an error."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Discreet("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    quiet_libraries()
    warnings.filterwarnings("ignore", category=FutureWarning)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")


def quiet_libraries() -> None:
    """Raise the levels of loggers that tell of every kernel and table, and leave those of the program as they are."""
    for name in ("bitsandbytes", "alembic", "mlflow", "httpx", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("sqlalchemy").setLevel(logging.CRITICAL)  # it tells of what it meets, and raises it besides
