"""Find sweeps and configuration groups, and compose them with the command line, using Hydra."""

import difflib
import logging
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lorasweep.config.fitting import fitting_data, fitting_probes, is_automatic, sets_probes
from lorasweep.config.grammar import quoted
from lorasweep.core.errors import ConfigError

log = logging.getLogger(__name__)


def questions(folder: Path) -> dict[str, str]:
    """Return each sweep's question: the first comment of its file."""
    found = {}
    for file in sorted(folder.glob("*.yaml")):
        first = file.read_text().lstrip().splitlines()[0]
        found[file.stem] = first.removeprefix("#").strip()
    return found


def groups(folder: Path) -> dict[str, list[str]]:
    """Return the options of every configuration group."""
    names = {d.name: sorted(f.stem for f in d.glob("*.yaml")) for d in sorted(folder.iterdir()) if d.is_dir()}
    return {group: options for group, options in names.items() if len(options) > 1}


def compose(arguments: Sequence[str], conf: Path, sweeps: Path) -> tuple[dict[str, Any] | None, str]:
    """Return the composed configuration as plain values, None with `--cfg`, and as YAML.

    A value in sweep grammar becomes part of the search space; a plain value removes its setting from the space.

    Raises:
        HydraException: an override or a group option does not exist.
        ConfigError: a sweep or group option does not exist, or an expression is malformed.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    options, overrides = split(arguments)
    folder = options.get("--config-dir")
    own = [Path(folder)] if folder else []
    known = {"sweep": sorted(_register([sweeps, *own])), **_options([conf, *own])}
    problems = [p for override in overrides for p in (*_bad_option(override, known), *_bad_grammar(override))]
    if problems:
        raise ConfigError(problems)
    overrides, pins = _to_space(overrides, set(known))
    name = options.get("--config-name", "config").removesuffix(".yaml")
    # A file in the user's folder is used only if `--config-name` names it.
    is_own = bool(folder) and "--config-name" in options and (Path(folder or "") / f"{name}.yaml").is_file()
    first, second = (Path(folder or ""), conf) if is_own else (conf, Path(folder or conf))
    if folder:
        overrides = [*overrides, f"hydra.searchpath=[{quoted(f'file://{second.absolute()}')}]"]
    with initialize_config_dir(version_base="1.3", config_dir=str(first.absolute())):
        composed = hydra_compose(config_name=name, overrides=overrides, return_hydra_config=True)
        group, plain = str(composed.hydra.runtime.choices.get("data")), _plain(composed)
        if (fitting := fitting_data(plain, group, overrides, conf)) != group:
            overrides = [f"data={fitting}", *overrides]
            plain = _plain(hydra_compose(config_name=name, overrides=overrides))
        if is_automatic(plain):  # the fitting probes depend on the base, which is known only now
            chosen = "none" if sets_probes(overrides) else fitting_probes(plain)
            plain = _plain(hydra_compose(config_name=name, overrides=[*overrides, f"probes={chosen}"]))
    for key in pins:
        _unsweep(plain, key)
    _rename_values(plain)
    text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
    return (None if "--cfg" in options else plain), text


def _rename_values(plain: dict[str, Any]) -> None:
    """Replace former names of values and log a note."""
    study = plain.get("study")
    for former, name in FORMER_PRUNERS.items():
        if isinstance(study, dict) and study.get("pruner") == former:
            log.warning("study.pruner=%s is now called %s", former, name)
            study["pruner"] = name


FORMER_PRUNERS = {"losers": "rules"}


def shell_completion(arguments: Sequence[str], conf: Path, sweeps: Path) -> None:
    """Print the completions that a shell requests; sweeps complete like groups.

    Raises:
        ValueError: the subcommand or the shell is missing or unknown.
    """
    from hydra._internal.hydra import Hydra
    from hydra._internal.utils import create_config_search_path
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra

    for name in _register([sweeps]):
        ConfigStore.instance().store(group="sweep", name=name, node={})
    # The subcommand before the settings is not a setting.
    os.environ["COMP_LINE"] = re.sub(r"^(\S+\s+)(plan|run|report|ui)\s+", r"\1", os.environ.get("COMP_LINE", ""))
    sys.argv[0] = "lorasweep"  # the completed command, however this process was started
    GlobalHydra.instance().clear()
    hydra = Hydra.create_main_hydra2("lorasweep", create_config_search_path(str(conf)))
    try:
        hydra.shell_completion("config", list(arguments))
    finally:
        GlobalHydra.instance().clear()


def _plain(config: Any) -> dict[str, Any]:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        config = OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])
        OmegaConf.resolve(config)
    except OmegaConfBaseException as error:
        raise ConfigError([str(error).splitlines()[0]]) from error
    raw = OmegaConf.to_container(config)
    assert isinstance(raw, dict)
    return {str(k): v for k, v in raw.items()}


FLAGS_WITH_VALUE = {"--config-dir": "--config-dir", "-cd": "--config-dir", "--config-name": "--config-name",
                    "-cn": "--config-name", "--cfg": "--cfg", "-c": "--cfg"}  # fmt: skip


def split(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Separate Hydra's own flags from overrides.

    Raises:
        ConfigError: an unknown flag.
    """
    options: dict[str, str] = {}
    overrides: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if name in FLAGS_WITH_VALUE:
            options[FLAGS_WITH_VALUE[name]] = value if equals else (rest.pop(0) if rest else "")
        elif word in ("-m", "--multirun"):
            continue  # every run is a sweep
        elif word.startswith("-"):
            raise ConfigError([f"{word}: no such option; known: {', '.join(FLAGS_WITH_VALUE)}, --help, --version"])
        else:
            overrides.append(word)
    return options, overrides


def _register(folders: Sequence[Path]) -> dict[str, Path]:
    """Register sweeps with Hydra one by one, so that a malformed file does not break every launch.

    Hydra's group is not called `sweep`: Hydra would then find `DIR/sweep/NAME.yaml` a second time.
    """
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    names: dict[str, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError([f"--config-dir: {folder} is not a folder"])
        for file in sorted([*folder.glob("*.yaml"), *folder.glob("sweep/*.yaml")]):
            try:
                node = OmegaConf.load(file)
            except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
                log.warning("%s cannot be read and is ignored: %s", file, str(error).splitlines()[0])
                continue
            if "sweep" in node:
                names[file.stem] = file
                ConfigStore.instance().store(group=SWEEPS, name=file.stem, node=node, package="_global_")
    return names


SWEEPS = "named_sweep"


def _options(folders: Sequence[Path]) -> dict[str, list[str]]:
    """Return the options of every group in these folders, except `sweep`, which is not a Hydra group."""
    found: dict[str, list[str]] = {}
    for file in sorted(file for folder in folders for file in folder.glob("*/*.yaml")):
        found.setdefault(file.parent.name, []).append(file.stem)
    found.pop("sweep", None)
    return found


def _bad_option(override: str, known: Mapping[str, Sequence[str]]) -> list[str]:
    match = re.fullmatch(r"\+{0,2}(\w+)=([^=,()\[\]{}]*)", override)
    if match is None or match.group(1) not in known:
        return []
    group, name = match.group(1), match.group(2).strip("'\"")
    options = known[group]
    if name in options:
        return []
    close = difflib.get_close_matches(name, options, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return [f"{'+' if group == 'sweep' else ''}{group}={name}: no such {group}{hint}; known: {', '.join(options)}"]


def _bad_grammar(override: str) -> list[str]:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    from lorasweep.config.grammar import HINT

    override = _readable(override)
    try:
        OverridesParser.create().parse_override(override)
    except (HydraException, TypeError, ValueError) as error:
        return [f"{override}: cannot be read ({str(error).strip().splitlines()[0]}); {HINT}"]
    return []


def _to_space(overrides: Sequence[str], known_groups: set[str]) -> tuple[list[str], list[str]]:
    """Turn overrides such as `lora.r=4,8` into lines of the space; return also the keys of plain overrides."""
    from lorasweep.config.grammar import pinned_key, swept_expression

    result, pins = [], []
    for override in map(_readable, overrides):
        override = re.sub(r"^\+*sweep=", f"+{SWEEPS}=", override)
        swept = swept_expression(override)
        if swept is not None:
            key = swept[0].lstrip("+").removeprefix("sweep.space.")
            target = key if key == "devices" else f"sweep.space.{key}"  # devices=0,1 uses both devices
            result.append(f"++{target}={quoted(swept[1])}")
            continue
        key_of = pinned_key(override)
        if key_of is None or not _is_value(key_of, known_groups):
            result.append(override)
            continue
        result.append(f"++{override.lstrip('+')}")
        pins += [] if key_of.startswith("sweep.") else [key_of]
    return result, pins


def _readable(override: str) -> str:
    """Quote a value that Hydra's grammar cannot parse, such as a path with a slice: `data.train=a.csv[:500]`."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        OverridesParser.create().parse_override(override)
    except HydraException:
        key, equals, value = override.partition("=")
        if equals and "(" not in value and re.fullmatch(r"[+~]{0,2}[\w.@/]+", key):
            return f"{key}={quoted(value)}"
    return override


def _is_value(key: str, known_groups: set[str]) -> bool:
    """Return whether the key is a setting, not a group. Unknown keys count as settings and are reported later."""
    return key not in {*known_groups, SWEEPS} and not key.startswith("hydra") and not set(key) & set("@/")


def _unsweep(raw: dict[str, Any], key: str) -> None:
    """Remove a setting that the command line fixes from the search space, and print a note."""
    node: Any = (raw.get("sweep") or {}).get("space") or {}
    *sections, name = key.split(".")
    for section in sections:
        node = node.get(section, {}) if isinstance(node, dict) else {}
    if isinstance(node, dict) and node.pop(name, None) is not None:
        print(f"{key} is set on the command line, so the sweep does not search it", file=sys.stderr)
