"""Make a plan: check everything that can be checked without training, and report all mistakes together."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from lorasweep.config.build import build_config
from lorasweep.config.grammar import Domain, Interval
from lorasweep.config.settings import SweepConfig
from lorasweep.config.space import distinct, draft, ends_of, grid, num_points, read_space, resolved
from lorasweep.core.errors import ConfigError, LoraSweepError
from lorasweep.core.spec import ModelSpec, TrialSpec
from lorasweep.core.trial import Params, Trial
from lorasweep.devices.cpu import num_cores
from lorasweep.devices.devices import Device, find_devices
from lorasweep.memory import Corrections
from lorasweep.models.info import describe, resolve_targets
from lorasweep.models.tokenizer import NO_TOKENIZER
from lorasweep.models.weight_files import check_weights
from lorasweep.planning.data_stats import DataFacts, all_facts
from lorasweep.planning.plan import Plan, with_rung_start
from lorasweep.planning.slots import num_workers, slots_of
from lorasweep.planning.stores import store_problems
from lorasweep.planning.warmup import longest_warmup
from lorasweep.tracking.naming import run_name

T = TypeVar("T")

ENOUGH_POINTS = 5000  # a larger finite space is treated like a continuous one


def make_plan(raw: Mapping[str, Any]) -> Plan:
    """Check the configuration, the devices, the bases and the data, and return the plan.

    Raises:
        ConfigError: all mistakes of settings and spaces; or else those of devices, bases, modules and data files.
    """
    domains = read_space(raw)
    config = build_config(raw)
    points = _points(config, domains)
    drafts = [draft(raw, params) for params in points]
    problems: list[str] = []
    devices = _attempt(problems, lambda: find_devices(config.devices)) or ()
    problems += store_problems(config)
    problems += _too_many_threads(config, config.workers or len(devices))
    specs = _attempt(problems, lambda: resolved(drafts, resolve_targets)) or []
    # Data files are checked even if modules cannot be resolved.
    facts = _attempt(problems, lambda: all_facts(drafts)) or {}
    problems += _weight_problems(dict.fromkeys(spec.model for spec in drafts)) if not problems else []
    if problems:
        raise ConfigError(_without_repeats(problems))
    return _with_slots(_plan(raw, config, domains, points, specs, devices, facts))


def _plan(
    raw: Mapping[str, Any],
    config: SweepConfig,
    domains: Mapping[str, Domain],
    points: Sequence[Params],
    specs: Sequence[TrialSpec],
    devices: tuple[Device, ...],
    facts: Mapping[str, DataFacts],
) -> Plan:
    """Return the plan without slots; its trials are the distinct points."""
    start = longest_warmup(
        list(zip(points, specs, strict=True)),
        domains,
        lambda params: draft(raw, params),
        lambda spec: facts[spec.data_key].num_train,
    )
    kept = distinct(specs)
    trials = (
        Trial(number=number, params=points[place], spec=with_rung_start(specs[place], start))
        for number, place in enumerate(kept)
    )
    is_whole = num_points(domains) <= ENOUGH_POINTS
    return Plan(
        raw=raw,
        config=replace(config, sweep=replace(config.sweep, name=run_name(config, domains))),
        domains=domains,
        trials=tuple(trials),
        num_same=len(points) - len(kept) if is_whole else 0,
        num_distinct=len(kept) if is_whole else float("inf"),
        devices=devices,
        facts=facts,
        corrections=Corrections(),
        slots={},
        rung_start=start,
    )


def _with_slots(plan: Plan) -> Plan:
    plan = replace(plan, slots=slots_of(plan))
    if plan.devices[0].is_gpu:
        return plan
    plan = replace(plan, devices=plan.devices[0].shared_by(num_workers(plan)))
    return replace(plan, slots=slots_of(plan))


def _without_repeats(problems: Sequence[str]) -> list[str]:
    """Return each problem once, without the missing tokenizers of bases that cannot be read at all."""
    bases = [
        text.split("'")[1]
        for text in problems
        if text.startswith("model.id: ") and NO_TOKENIZER not in text and "'" in text
    ]
    repeats = tuple(f"model.id: {base!r} {NO_TOKENIZER}" for base in bases)
    return [text for text in dict.fromkeys(problems) if not text.startswith(repeats)]


def _too_many_threads(config: SweepConfig, num_devices: int) -> list[str]:
    """Refuse more threads than cores, because threads would wait for each other."""
    threads, cores, workers = config.threads or 0, num_cores(), max(1, num_devices)
    if threads * workers <= cores:
        return []
    most = max(1, cores // workers)
    each = "" if workers == 1 else f" for each of {workers} workers"
    return [f"threads: {threads}{each} exceed the {cores} available cores; set threads={most}, or null"]


def _weight_problems(models: Iterable[ModelSpec]) -> list[str]:
    """Return the problems of the weights of these bases."""
    problems: list[str] = []
    for model in models:
        _attempt(problems, partial(check_weights, describe(model.id, model.revision, model.trust_remote_code)))
    return problems


def _attempt(problems: list[str], check: Callable[[], T]) -> T | None:
    """Return the result of a check; append its mistakes to `problems` and return None if it raises."""
    try:
        return check()
    except ConfigError as error:
        problems += error.problems
    except LoraSweepError as error:
        problems.append(str(error))
    return None


def _points(config: SweepConfig, domains: Mapping[str, Domain]) -> list[Params]:
    """Return all points of a small finite space, else its corners."""
    if not domains:
        return [{}]
    size = num_points(domains)
    if config.study.sampler == "grid" and size > ENOUGH_POINTS:
        raise ConfigError([f"study.sampler: the grid has {size:.0f} points; search it with study.sampler=tpe instead"])
    if size <= ENOUGH_POINTS:
        return grid(domains)
    # Every base, data set and set of modules must be checked; for other settings the ends are enough.
    seen = {k: d for k, d in domains.items() if k.startswith(("model.", "data.")) or k == "lora.target_modules"}
    endless = [k for k, d in seen.items() if isinstance(d, Interval)]
    if endless or num_points(seen) > ENOUGH_POINTS:
        keys = ", ".join(f"sweep.space.{k}" for k in endless or seen)
        raise ConfigError(
            [f"{keys}: too many values to prepare in a continuous space; use choice(...) with fewer values"]
        )
    rest = _corners({k: d for k, d in domains.items() if k not in seen})
    return [{**corner, **point} for corner in rest for point in grid(seen)]


def _corners(domains: Mapping[str, Domain]) -> list[Params]:
    """Return points that together contain every choice and both ends of every interval."""
    ends = {key: ends_of(domain) for key, domain in domains.items()}
    most = max((len(values) for values in ends.values()), default=1)
    # The last point combines the largest values: it determines the memory plan.
    return [{key: values[min(i, len(values) - 1)] for key, values in ends.items()} for i in range(most)]
