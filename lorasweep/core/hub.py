"""Detect within seconds that the model hub does not answer; its own clients retry for minutes."""

import os
import sys
import urllib.error
import urllib.request
from functools import cache

TIMEOUT_S = 5.0  # for the first answer


def unreachable_note() -> str:
    """Return a note to append to an error message if the hub does not answer, else an empty string.

    If it does not answer, this process and its workers use only the hub's cache from now on.
    """
    if not is_unreachable():
        return ""
    _go_offline()
    return f" ({_endpoint()} does not answer, so only the local cache can be read)"


@cache
def is_unreachable() -> bool:
    """Return whether the hub does not answer. Any answer counts, even an error."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return False  # the clients are offline already
    try:
        with urllib.request.urlopen(urllib.request.Request(_endpoint(), method="HEAD"), timeout=TIMEOUT_S):
            return False
    except urllib.error.HTTPError:
        return False
    except (OSError, ValueError):
        return True


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co")


def _go_offline() -> None:
    """Switch the hub's clients to offline mode; clients imported earlier have read the variable already."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    for name in ("huggingface_hub.constants", "datasets.config"):
        if name in sys.modules:
            setattr(sys.modules[name], "HF_HUB_OFFLINE", True)  # noqa: B010
