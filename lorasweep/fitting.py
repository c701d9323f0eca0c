"""Which probes fit a base, where the configuration leaves that open.

The demo's probes ask what only the demo has learned, so they say nothing of another base.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lorasweep.grammar import Choice, parse

AUTOMATIC = {"default": "auto"}  # as conf/probes/auto.yaml has it


def is_automatic(raw: Mapping[str, Any]) -> bool:
    """Tell whether the composed configuration leaves its probes to be chosen."""
    probes = (raw.get("eval") or {}).get("probes")
    return isinstance(probes, Mapping) and probes.items() >= AUTOMATIC.items()


def sets_probes(overrides: Sequence[str]) -> bool:
    """Tell whether the command line sets all probes itself."""
    return any(re.match(r"[+]*eval\.probes=", override) for override in overrides)


def fitting_probes(raw: Mapping[str, Any]) -> str:
    """Return the option of the group `probes` that fits the base, or all bases of the space; `none` where none does."""
    kinds = {_kind(model_id) for model_id in _model_ids(raw)}
    return kinds.pop() if len(kinds) == 1 else "none"


def _kind(model_id: str) -> str:
    if model_id == "demo":
        return "demo"
    is_local = model_id.startswith(("/", ".", "~")) or Path(model_id).exists()
    return "none" if is_local else "general"


def _model_ids(raw: Mapping[str, Any]) -> list[str]:
    model = ((raw.get("sweep") or {}).get("space") or {}).get("model")
    swept = model.get("id") if isinstance(model, Mapping) else None  # a group that is swept is refused later
    try:
        domain = parse("model.id", swept) if swept else None
    except ValueError:  # the check of the space says what is wrong
        domain = None
    return [str(value) for value in domain.values] if isinstance(domain, Choice) else [str(raw["model"]["id"])]
