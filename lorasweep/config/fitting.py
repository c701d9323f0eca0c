"""Which probes fit a base and which data group fits a file, where the command line leaves that open.

The demo's probes ask what only the demo has learned, so they say nothing of another base. The demo's data groups hold
the demo's files, lengths and learning rates, so none of these may stay beside another training file.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lorasweep.config.grammar import Choice, parse
from lorasweep.core.errors import ConfigError
from lorasweep.core.spec import DEMO_FILES

AUTOMATIC = {"default": "auto"}  # as conf/probes/auto.yaml has it


def is_automatic(raw: Mapping[str, Any]) -> bool:
    """Tell whether the composed configuration leaves its probes to be chosen."""
    probes = (raw.get("eval") or {}).get("probes")
    return isinstance(probes, Mapping) and probes.items() >= AUTOMATIC.items()


def sets_probes(overrides: Sequence[str]) -> bool:
    """Tell whether the command line sets all probes itself."""
    return _sets(r"eval\.probes", overrides)


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


def fitting_data(raw: Mapping[str, Any], group: str, overrides: Sequence[str], conf: Path) -> str:
    """Return the data group that fits the training file: `group`, unless that is the demo's and the file is not.

    Raises:
        ConfigError: the file is not the demo's, and neither `data` nor `data.format` says how its rows are laid out.
    """
    groups = _data_groups(conf)
    source = str((raw.get("data") or {}).get("train"))
    is_demo = str(groups.get(group, {}).get("train")).startswith(DEMO_FILES)
    if not is_demo or source.startswith(DEMO_FILES) or _sets("data", overrides):
        return group
    layout = str(raw["data"].get("format")) if _sets(r"data\.format", overrides) else ""
    own = {name: data.get("format") for name, data in groups.items() if data.get("train") == "???"}
    if layout in own.values():
        return next(name for name in own if own[name] == layout)
    has_none = f", and no group has data.format={layout}" if layout else ""
    raise ConfigError([
        f"data.train: {source} comes without data=NAME, which says how its rows are laid out{has_none}; add one of "
        + ", ".join(f"data={name}" for name in own)
    ])  # fmt: skip


def _data_groups(conf: Path) -> dict[str, dict[str, Any]]:
    """Return the `data` section of every group `data=NAME`, by name; `train: ???` where the file is the user's own."""
    read = {file.stem: yaml.safe_load(file.read_text()) for file in sorted(conf.glob("data/*.yaml"))}
    return {name: raw.get("data") or {} for name, raw in read.items()}


def _sets(key: str, overrides: Sequence[str]) -> bool:
    return any(re.match(rf"[+]*{key}=", override) for override in overrides)
