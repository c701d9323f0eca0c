"""Build frozen dataclasses from a composed mapping; all mistakes are collected and reported together.

OmegaConf neither merges into nested frozen dataclasses nor supports `Literal`, and its messages name no remedy. Nothing
is instantiated by name from a configuration.
"""

import difflib
import math
import re
import types
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from lorasweep.adapters.methods.table import DEFAULT, METHODS
from lorasweep.config.constraints import CLOSED, contradictions, rule_of
from lorasweep.config.settings import SweepConfig
from lorasweep.core.errors import ConfigError
from lorasweep.core.files import secrets
from lorasweep.core.spec import AdapterSpec, ProbeSpec


def build_config(raw: Mapping[str, Any]) -> SweepConfig:
    """Return the configuration, or raise `ConfigError` with all of its mistakes."""
    config, problems = check_config(raw)
    if problems or config is None:
        raise ConfigError(problems)
    return config


def check_config(raw: Mapping[str, Any]) -> tuple[SweepConfig | None, list[str]]:
    """Return the configuration, None if it cannot be built, and all of its mistakes."""
    problems: list[str] = []
    raw = dict(raw)
    if isinstance(raw.get("sweep"), str):
        problems.append(f"sweep: {raw.pop('sweep')!r} is a name, not a sweep; write +sweep=NAME")
    problems += _exposed(raw, secrets())
    config = _build(SweepConfig, raw, "", problems)
    if config is not None:
        problems += contradictions(config)
    return config, problems


def _exposed(raw: Any, hidden: Mapping[str, str], path: str = "") -> list[str]:
    """Return settings that contain a secret: settings are stored with results. Only `tracking.uri` may contain one."""
    if isinstance(raw, Mapping):
        return [p for key, value in raw.items() for p in _exposed(value, hidden, f"{path}.{key}".lstrip("."))]
    if isinstance(raw, list | tuple):
        return [p for value in raw for p in _exposed(value, hidden, path)]
    names = [name for name, value in hidden.items() if value in str(raw)] if path != "tracking.uri" else []
    return [
        f"{path}: contains the value of {name}; settings are stored with the results, secrets are not" for name in names
    ]


def _build(cls: type[Any], raw: Any, path: str, problems: list[str]) -> Any:
    if not isinstance(raw, Mapping):
        problems.append(f"{path.rstrip('.')}: must be a section of settings, not {raw!r}")
        return None
    hints = get_type_hints(cls)
    known = {f.name: f for f in fields(cls)}
    before = len(problems)
    names = _adapter_settings() if issubclass(cls, AdapterSpec) else known
    known_names = _names(names) if path else {**_names(names), **_nested_names(hints)}
    problems += [_unknown(f"{path}{key}", key, list(known), known_names) for key in raw if key not in known]
    values = {}
    for name, spec in known.items():
        if name in raw and raw[name] != "???":
            values[name] = _checked(hints[name], raw[name], f"{path}{name}", problems)
        elif _is_required(spec):
            problems.append(f"{path}{name}: is missing; set it, for example {path}{name}={EXAMPLES.get(name, '...')}")
    return cls(**values) if len(problems) == before else None


def _checked(hint: Any, value: Any, path: str, problems: list[str]) -> Any:
    before = len(problems)
    result = _convert(hint, value, path, problems)
    key = re.sub(r"^eval\.probes\.[^.]+\.", "eval.probes.*.", path)
    rule = rule_of(key)
    if len(problems) == before and rule and not rule[0](result):
        problems.append(f"{path}: {result!r} {rule[1]}{_suggestion(key, result)}")
    return result


def _suggestion(rule: str, value: Any) -> str:
    """Suggest the nearest allowed name for each unknown name of a setting."""
    known = CLOSED.get(rule, ())
    unknown = [name for name in ([value] if isinstance(value, str) else value) if name not in known] if known else []
    # Compare in lower case, so that ROUGE-L suggests rougeL.
    names = {name.lower(): name for name in known}
    close = [names[match] for name in unknown for match in difflib.get_close_matches(name.lower(), names, n=1)]
    return f"; did you mean {' and '.join(map(repr, close))}?" if close else ""


EXAMPLES = {
    "train": "my_data.jsonl",
    "id": "path/or/hub-id",
    "format": "alpaca",
    "r": "8",
    "lora_alpha": "2r",
    "target_modules": "qv",
}


def _is_required(spec: "Field[Any]") -> bool:
    return spec.default is MISSING and spec.default_factory is MISSING


# Names of these settings in other programs.
ALIASES = {
    "lr": "learning_rate", "batch_size": "per_device_train_batch_size", "epochs": "num_train_epochs", "rank": "r",
    "accumulation": "gradient_accumulation_steps", "alpha": "lora_alpha", "dropout": "lora_dropout",
    "targets": "target_modules", "quantization": "precision", "quant": "precision", "warmup_ratio": "warmup_steps",
    "scheduler": "lr_scheduler_type", "n_trials": "trials", "torch_dtype": "dtype", "gradient_checkpointing":
    "activation_checkpointing", "optimizer": "optim", "name": "id", "modules": "target_modules",
}  # fmt: skip


def _names(known: Iterable[str], prefix: str = "") -> dict[str, str]:
    """Map names and aliases of settings to their full names."""
    names = list(known)
    aliases = {alias: f"{prefix}{name}" for alias, name in ALIASES.items() if name in names}
    return {**aliases, **{name: f"{prefix}{name}" for name in names}}


def _nested_names(hints: Mapping[str, Any]) -> dict[str, str]:
    """Map the names of every section's settings to full names, so that `lr=1e-3` suggests `train.learning_rate`."""
    sections = {name: hint for name, hint in hints.items() if is_dataclass(hint) and isinstance(hint, type)}
    found: dict[str, str] = {}
    for section, hint in sections.items():
        known = _adapter_settings() if hint is AdapterSpec else [f.name for f in fields(hint)]
        for name, full in _names(known, f"{section}.").items():
            found.setdefault(name, full)
    return found


def _unknown(path: str, key: str, known: list[str], names: Mapping[str, str]) -> str:
    close = difflib.get_close_matches(str(key), names, n=1)
    hint = f"did you mean {names[close[0]]!r}?" if close else f"known here: {', '.join(known)}"
    return f"{path}: no such setting; {hint}"


def _convert(hint: Any, value: Any, path: str, problems: list[str]) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if hint is AdapterSpec:
        return _adapter(value, path, problems)
    if is_dataclass(hint) and isinstance(hint, type):
        return _build(hint, value, path + ".", problems)
    if hint == tuple[ProbeSpec, ...]:
        return _probes(value, path, problems)
    if origin is tuple:
        return _words(value, path, problems)
    if origin in (Union, types.UnionType):
        return _either(args, value, path, problems)
    if origin is Literal:
        return _closed(args, value, path, problems)
    if isinstance(value, Mapping) and (origin is not None or hint is Any):
        return value
    return _scalar(hint, value, path, problems)


def _adapter(value: Any, path: str, problems: list[str]) -> Any:
    """Build the settings of the method that is named; those that only other methods have are left out."""
    if not isinstance(value, Mapping):
        return _build(AdapterSpec, value, f"{path}.", problems)
    name = value.get("method", DEFAULT)
    settings = METHODS[name].settings if isinstance(name, str) and name in METHODS else METHODS[DEFAULT].settings
    others = _adapter_settings() - {f.name for f in fields(settings)}
    raw = settings.expanded({key: setting for key, setting in value.items() if key not in others})
    if isinstance(raw.get("target_modules"), str):
        raw["target_modules"] = [raw["target_modules"]]
    return _build(settings, raw, f"{path}.", problems)


def _adapter_settings() -> set[str]:
    """Return the names of all methods' settings."""
    return {f.name for method in METHODS.values() for f in fields(method.settings)}


def _probes(value: Any, path: str, problems: list[str]) -> tuple[Any, ...]:
    """Build probes from a mapping of names to probes, which lets users override or remove one by name."""
    if not isinstance(value, Mapping):
        problems.append(f"{path}: must map probe names to probes, not {value!r}")
        return ()
    raws = {n: {**p, "name": n} if isinstance(p, Mapping) else p for n, p in value.items() if p is not None}
    return tuple(_build(ProbeSpec, raw, f"{path}.{name}.", problems) for name, raw in raws.items())


def _words(value: Any, path: str, problems: list[str]) -> tuple[str, ...]:
    if isinstance(value, list | tuple) and all(isinstance(v, str) for v in value):
        return tuple(value)
    problems.append(f"{path}: must be a list of words such as [a,b], not {value!r}")
    return ()


def _either(options: tuple[Any, ...], value: Any, path: str, problems: list[str]) -> Any:
    # A search space cannot contain null, so `none` means null.
    if value in (None, "none") and type(None) in options:
        return None
    attempts = []
    for option in (o for o in options if o is not type(None)):
        found: list[str] = []
        result = _convert(option, value, path, found)
        if not found:
            return result
        attempts.append(found)
    problems += attempts[0]
    return None


def _closed(options: tuple[Any, ...], value: Any, path: str, problems: list[str]) -> Any:
    value = "none" if value is None and "none" in options else value
    if value in options:
        return value
    close = difflib.get_close_matches(str(value), [str(o) for o in options], n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    problems.append(f"{path}: {value!r} is not one of {', '.join(map(str, options))}{hint}")
    return None


EXPRESSIONS = {"lora.lora_alpha": "a number, or a multiple of the rank such as 2r"}
WANTED = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def _scalar(hint: Any, value: Any, path: str, problems: list[str]) -> Any:
    # YAML reads 1e-4 as text and 3 as an int; both are valid for a float setting. True is not a number.
    if hint is float and isinstance(value, str):
        value = _number(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is str and isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # a device index, a column or a revision of digits only
    if hint is float and isinstance(value, float) and not math.isfinite(value):
        problems.append(f"{path}: must be a finite number, not {value!r}")
        return None
    if isinstance(value, hint) and not (isinstance(value, bool) and hint is not bool):
        return value
    problems.append(f"{path}: must be {EXPRESSIONS.get(path) or WANTED[hint]}, not {value!r}")
    return None


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
