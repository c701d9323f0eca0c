"""The search space of a sweep: its points, and which of them are equal.

A space is a nested mapping that mirrors the configuration, with a sweep expression at each leaf. All values of the
space are checked before the first trial starts.
"""

import copy
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from lorasweep.config.build import build_config, check_config
from lorasweep.config.grammar import Choice, Domain, Interval, parse
from lorasweep.config.settings import SweepConfig
from lorasweep.config.shared import shared_data
from lorasweep.core.errors import ConfigError, ModelError
from lorasweep.core.spec import ModelSpec, TrialSpec
from lorasweep.core.trial import Params, Scalar

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Resolve = Callable[[ModelSpec, tuple[str, ...]], tuple[str, ...]]

# Sections that a trial may vary. Evaluation settings may not vary within a study: scores would not be comparable.
SWEEPABLE = ("model", "lora", "train", "data")
NEVER_SWEPT = ("model.trust_remote_code", "data.train", "data.validation", "data.test", "data.format",
               "data.validation_share", "data.split_seed", "data.text_column", "data.label_column",
               "data.eval_max_length", "data.templates")  # fmt: skip


def leaves(space: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted keys and the expressions of a nested space."""
    for key, value in space.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        elif value is not None:
            yield f"{prefix}{key}", value


def read_space(raw: Mapping[str, Any]) -> dict[str, Domain]:
    """Return the domains of the composed configuration's space.

    Raises:
        ConfigError: all mistakes of the configuration and the space.
    """
    config, known = check_config(raw)
    problems = list(known)
    sweep = raw.get("sweep") or {}
    space = sweep.get("space", {}) if isinstance(sweep, Mapping) else {}
    domains: dict[str, Domain] = {}
    for key, text in leaves(space if isinstance(space, Mapping) else {}):
        try:
            domains[key] = parse(key, text)
        except ValueError as error:
            problems.append(f"sweep.space.{key}: {error}")
    misplaced = _misplaced(domains)
    problems += misplaced.values()
    problems += [p for k, domain in domains.items() if k not in misplaced for p in _bad_values(raw, k, domain, known)]
    problems += _grid_problem(config, domains) if config is not None else []
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return domains


def _misplaced(domains: Mapping[str, Domain]) -> dict[str, str]:
    found = {}
    for key in domains:
        if "." not in key:
            found[key] = f"sweep.space.{key}: is a group, not a setting; vary its settings, such as {key}.NAME"
        elif key.split(".")[0] not in SWEEPABLE or key in NEVER_SWEPT:
            found[key] = (
                f"sweep.space.{key}: cannot be swept, because trials could not be compared; a space may vary "
                f"{', '.join(s + '.*' for s in SWEEPABLE)} except {', '.join(NEVER_SWEPT)}"
            )
    return found


def _bad_values(raw: Mapping[str, Any], key: str, domain: Domain, known: Sequence[str]) -> list[str]:
    found = []
    for value in ends_of(domain):
        found += [f"sweep.space.{p}" for p in check_config(_with(raw, {key: value}))[1] if p not in known]
    return found


def _grid_problem(config: SweepConfig, domains: Mapping[str, Domain]) -> list[str]:
    if config.study.sampler != "grid":
        return []
    endless = [k for k, d in domains.items() if isinstance(d, Interval) and not (d.is_int or d.step)]
    return [
        f"study.sampler: a grid needs finitely many values, and sweep.space.{k} is an interval; use choice(...)"
        for k in endless
    ]


def _number(domain: Interval, value: float) -> int | float:
    return int(value) if domain.is_int else float(value)


def _with(raw: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of the configuration with dotted keys set."""
    changed = copy.deepcopy(dict(raw))
    for key, value in params.items():
        *sections, name = key.split(".")
        node: Any = changed
        for section in sections:
            node = node.setdefault(section, {}) if isinstance(node, dict) else {}
        if isinstance(node, dict):
            node[name] = _listed(value)
    return changed


def _listed(value: Scalar) -> Scalar | list[str]:
    """Turn the text `[q_proj,v_proj]`, which Optuna can store, into a list."""
    if isinstance(value, str) and value.startswith("[") and value.endswith("]"):
        return [word.strip().strip("'\"") for word in value[1:-1].split(",") if word.strip()]
    return value


def draft(raw: Mapping[str, Any], params: Params) -> TrialSpec:
    """Return the spec of one point of the space, with target modules as they were written.

    Raises:
        ConfigError: a value of the point is not valid.
    """
    config = build_config(_with(raw, params))
    data = shared_data(config.data, raw)
    return TrialSpec(model=config.model, lora=config.lora, train=config.train, data=data, eval=config.eval)


def trial_spec(raw: Mapping[str, Any], params: Params, resolve: Resolve) -> TrialSpec:
    """Return the spec of one point; `resolve` turns module presets into module names of the base."""
    return _with_modules(draft(raw, params), resolve)


def _with_modules(spec: TrialSpec, resolve: Resolve) -> TrialSpec:
    modules = resolve(spec.model, spec.lora.target_modules)
    return replace(spec, lora=replace(spec.lora, target_modules=modules))


def ends_of(domain: Domain) -> tuple[Scalar, ...]:
    """Return both ends of an interval, and every value of a choice."""
    return domain.values if isinstance(domain, Choice) else (_number(domain, domain.low), _number(domain, domain.high))


def values_of(domain: Domain) -> tuple[Scalar, ...]:
    """Return all values of a finite domain, in order."""
    if isinstance(domain, Choice):
        return domain.values
    assert domain.is_int or domain.step, domain
    # In decimals 0.1 + 0.2 is 0.3.
    low, high, step = (Decimal(str(x)) for x in (domain.low, domain.high, domain.step or 1))
    return tuple(_number(domain, float(low + i * step)) for i in range(int((high - low) / step) + 1))


def grid(domains: Mapping[str, Domain]) -> list[Params]:
    """Return all points of a finite space; the last key varies fastest."""
    keys = list(domains)
    return [dict(zip(keys, point, strict=True)) for point in itertools.product(*(values_of(domains[k]) for k in keys))]


def num_points(domains: Mapping[str, Domain]) -> float:
    """Return the number of points of the space; infinite if it is continuous."""
    sizes = [len(values_of(d)) if isinstance(d, Choice) or d.is_int or d.step else math.inf for d in domains.values()]
    return math.prod(sizes)


def distinct(specs: Sequence[TrialSpec]) -> list[int]:
    """Return the indices of the distinct specs; of equal ones, the first."""
    seen: dict[str, int] = {}
    for place, spec in enumerate(specs):
        seen.setdefault(spec.fingerprint, place)
    return list(seen.values())


def distributions(domains: Mapping[str, Domain]) -> "dict[str, BaseDistribution]":
    """Return Optuna's distributions for a space."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    def one(domain: Domain) -> "BaseDistribution":
        if isinstance(domain, Choice):
            return CategoricalDistribution(list(domain.values))
        if domain.is_int:
            return IntDistribution(int(domain.low), int(domain.high), log=domain.is_log, step=int(domain.step or 1))
        return FloatDistribution(domain.low, domain.high, log=domain.is_log, step=domain.step)

    return {key: one(domain) for key, domain in domains.items()}


def resolved(drafts: Sequence[TrialSpec], resolve: Resolve) -> list[TrialSpec]:
    """Return the specs of several drafts.

    Raises:
        ConfigError: target modules that a base does not have; each mistake once.
    """
    specs: list[TrialSpec] = []
    problems: dict[str, None] = {}
    for one in drafts:
        try:
            specs.append(_with_modules(one, resolve))
        except ModelError as error:
            problems[str(error)] = None
    if problems:
        raise ConfigError(list(problems))
    return specs
