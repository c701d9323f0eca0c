"""The model hub, where it does not answer: said within seconds, not after minutes of retries."""

import os
import sys
import urllib.error
import urllib.request
from functools import cache

TIMEOUT_S = 5.0  # for the first answer; the hub's own clients retry for more than a minute


def unreachable_note() -> str:
    """Return a remark for errors where the hub does not answer, empty where it does.

    Where it does not, this process and its workers read the hub's cache alone from now on.
    """
    if not is_unreachable():
        return ""
    _go_offline()
    return f" ({_endpoint()} does not answer, so only what was downloaded before can be read)"


@cache
def is_unreachable() -> bool:
    """Tell whether the hub does not answer; any answer will do, an error too."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return False  # its clients know
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
    """Tell the clients; one that is imported already has read the variable."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    for name in ("huggingface_hub.constants", "datasets.config"):
        if name in sys.modules:
            setattr(sys.modules[name], "HF_HUB_OFFLINE", True)  # noqa: B010
