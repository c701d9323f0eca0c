"""What a sweep would do: every trial built, every file read, nothing trained."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from lorasweep.config.build import SweepConfig, build_config
from lorasweep.config.grammar import Choice, Domain, Interval, Scalar
from lorasweep.config.space import Params, check_targets, distinct, grid, num_points, read_space, trial_spec
from lorasweep.core.errors import ConfigError, LoraSweepError
from lorasweep.core.result import WorkerSettings
from lorasweep.core.spec import ModelSpec, TrialSpec
from lorasweep.devices.cpu import num_cores
from lorasweep.devices.devices import Device, find_devices
from lorasweep.memory import (
    GIB,
    Corrections,
    Footprint,
    Loads,
    footprint,
    slots_that_fit,
    weight_bytes,
)
from lorasweep.models.info import BaseInfo, describe, resolve_targets
from lorasweep.models.tokenizer import NO_TOKENIZER
from lorasweep.models.weight_files import check_weights
from lorasweep.planning.data_stats import DataFacts, all_facts
from lorasweep.planning.stores import store_problems
from lorasweep.planning.warmup import longest_warmup
from lorasweep.tracking.naming import run_name

T = TypeVar("T")

MOST_SLOTS = 24  # on two CPU cores the packed step stops gaining beyond about two dozen slots
MOST_WORKERS = 8  # processes on one CPU
FEWEST_SLOTS = 6  # of a CPU worker, for packing to pay
BASES = 0.25  # share of the memory that the bases of all CPU workers may have
USABLE = 0.8  # share of a device's free memory that a bank may plan with
BLIND = ("random", "qmc")  # samplers that do not look at results
WAVES = 4  # a sampler that learns must see results before it has asked for everything
ENOUGH_POINTS = 5000  # a larger discrete space is treated like a continuous one


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A checked sweep, ready to run. `points` is the whole grid, or samples of a space that is searched."""

    raw: Mapping[str, Any]
    config: SweepConfig
    domains: Mapping[str, Domain]
    points: tuple[Params, ...]
    num_trials: int
    num_same: int
    num_distinct: float
    devices: tuple[Device, ...]
    facts: Mapping[str, DataFacts]
    corrections: Corrections
    slots: Mapping[str, int]  # by device
    rung_start: float = 0.0  # share of the steps that the longest warm-up takes

    @property
    def most_trials(self) -> int:
        """Return how many trials will be trained at most: a finite space has no more than its different points."""
        return int(min(self.num_trials, self.num_distinct))

    @property
    def is_grid(self) -> bool:
        """Tell whether every point is run: asked for, or because the space has no more points than the study trials."""
        return self.config.study.sampler == "grid" or self.num_distinct <= self.config.study.trials

    def spec(self, params: Mapping[str, Scalar]) -> TrialSpec:
        """Return the trial of a point."""
        spec = trial_spec(self.raw, dict(params), resolve_targets)
        start = max(self.rung_start, spec.eval.rung_start)
        return replace(spec, eval=replace(spec.eval, rung_start=start))

    @property
    def warnings(self) -> tuple[str, ...]:
        """Say what makes the scores of the data unreliable."""
        return tuple(dict.fromkeys(text for facts in self.facts.values() for text in facts.warnings))

    def info(self, model: ModelSpec) -> BaseInfo:
        """Return a base's shape."""
        return describe(model.id, model.revision, model.trust_remote_code)

    @property
    def num_slots(self) -> int:
        """Return the trials that can train at once, on all devices."""
        return sum(self.slots.values())

    @property
    def kind(self) -> str:
        """Return the kind of the devices, which decides how memory is counted."""
        return self.devices[0].kind

    def loads(self, specs: Sequence[TrialSpec]) -> Loads:
        """Return trials with how long their rows are."""
        return [(spec, self.facts[spec.data_key].lengths) for spec in specs]

    def footprint(self, specs: Sequence[TrialSpec], kind: str | None = None) -> Footprint:
        """Predict the memory of these trials in one bank, corrected by what was measured on such a base before."""
        kind = kind or self.kind
        need = footprint(self.info(specs[0].model), self.loads(specs), kind=kind)
        return need.corrected(self.factor(specs[0].model, kind), kind)

    def factor(self, model: ModelSpec, kind: str) -> float:
        """Return what measurements have taught to multiply predictions with."""
        return self.corrections.factor(self.info(model).fingerprint, model, kind)

    def budget(self, free_bytes: float) -> float:
        """Return how much of a device's free memory a bank may plan with."""
        most = self.config.study.memory_gib
        return min(free_bytes * USABLE, most * GIB / self.num_shares) if most else free_bytes * USABLE

    @property
    def num_shares(self) -> int:
        """Return how many workers share a device: processes on the CPU, one on a GPU."""
        return 1 if self.devices[0].is_gpu else len(self.devices)

    def worker(self, device: Device, num_threads: int) -> WorkerSettings:
        """Return the settings of a device's worker."""
        return WorkerSettings(
            visible=device.visible,
            device="cpu" if not device.is_gpu else f"cuda:{device.name}",
            num_slots=self.slots[device.name],
            num_threads=num_threads,
        )


def make_plan(raw: Mapping[str, Any]) -> Plan:
    """Check everything that can be checked without training.

    Raises:
        ConfigError: mistakes of settings and spaces; or else those of devices, bases, modules and data files together.
    """
    domains = read_space(raw)
    config = build_config(raw)
    every = _points(config, domains)

    def spec_of(params: Params) -> TrialSpec:
        return trial_spec(raw, params, resolve_targets)

    def without_base(params: Params) -> TrialSpec:
        return trial_spec(raw, params, lambda _model, _modules: ())  # files can be read whatever the base and modules

    problems: list[str] = []
    devices = _attempt(problems, lambda: find_devices(config.devices)) or ()
    problems += store_problems(config)
    problems += _too_many_threads(config, config.workers or len(devices))
    _attempt(problems, lambda: check_targets(every, spec_of))
    facts = _attempt(problems, lambda: all_facts([without_base(p) for p in every])) or {}
    problems += _weight_problems(dict.fromkeys(without_base(p).model for p in every)) if not problems else []
    if problems:
        raise ConfigError(_without_echoes(problems))
    is_whole = num_points(domains) <= ENOUGH_POINTS
    points = distinct(every, spec_of)
    num_distinct = len(points) if is_whole else float("inf")
    is_grid = config.study.sampler == "grid" or num_distinct <= config.study.trials
    plan = Plan(
        raw=raw,
        config=replace(config, sweep=replace(config.sweep, name=run_name(config, domains))),
        domains=domains,
        points=tuple(points),
        num_trials=len(points) if is_grid else config.study.trials,
        num_same=len(every) - len(points) if is_whole else 0,
        num_distinct=num_distinct,
        devices=devices,
        facts=facts,
        corrections=Corrections(),
        slots={},
        rung_start=longest_warmup(every, domains, spec_of, lambda spec: facts[spec.data_key].num_train),
    )
    plan = replace(plan, slots=_slots(plan))
    if devices[0].is_gpu:
        return plan
    plan = replace(plan, devices=devices[0].shared_by(_num_workers(plan)))
    return replace(plan, slots=_slots(plan))


def _without_echoes(problems: Sequence[str]) -> list[str]:
    """Return each problem once; that a base has no tokenizer is no news where the base itself cannot be read."""
    bases = [
        text.split("'")[1]
        for text in problems
        if text.startswith("model.id: ") and NO_TOKENIZER not in text and "'" in text
    ]
    echoes = tuple(f"model.id: {base!r} {NO_TOKENIZER}" for base in bases)
    return [text for text in dict.fromkeys(problems) if not text.startswith(echoes)]


def _num_workers(plan: Plan) -> int:
    """Return how many processes share the CPU.

    Threads that share each small operation wait for each other at its end; processes with a bank each do not. What
    they cost is a base each, and a slot that waits where another worker has one too many.
    """
    config, (cpu,) = plan.config, plan.devices
    if config.workers or config.executor == "inline":
        return config.workers or 1
    models = {spec.model for spec in map(plan.spec, plan.points)}
    weights = max(weight_bytes(plan.info(model), model) for model in models)
    enough = (num_cores() // (config.threads or 1), MOST_WORKERS, plan.num_slots // FEWEST_SLOTS)
    return max(1, min(*enough, int(cpu.free_bytes * BASES // weights)))


def _too_many_threads(config: SweepConfig, num_devices: int) -> list[str]:
    """Threads beyond the cores wait for each other, and everything with them."""
    threads, cores, workers = config.threads or 0, num_cores(), max(1, num_devices)
    if threads * workers <= cores:
        return []
    most = max(1, cores // workers)
    who = "" if workers == 1 else f" for each of {workers} workers"
    return [f"threads: {threads}{who} are more than the {cores} cores that may be used; set threads={most}, or null"]


def _weight_problems(models: Iterable[ModelSpec]) -> list[str]:
    """Return what is wrong with the weights of bases that can be described."""
    problems: list[str] = []
    for model in models:
        _attempt(problems, partial(check_weights, describe(model.id, model.revision, model.trust_remote_code)))
    return problems


def _attempt(problems: list[str], check: Callable[[], T]) -> T | None:
    """Return what a check returns; what is wrong joins the problems that were found before."""
    try:
        return check()
    except ConfigError as error:
        problems += error.problems
    except LoraSweepError as error:
        problems.append(str(error))
    return None


def _points(config: SweepConfig, domains: Mapping[str, Domain]) -> list[Params]:
    """Return the whole space where it is small and finite, else its corners."""
    if not domains:
        return [{}]
    size = num_points(domains)
    if config.study.sampler == "grid" and size > ENOUGH_POINTS:
        raise ConfigError([f"study.sampler: the grid has {size:.0f} points; search it with study.sampler=tpe instead"])
    if size <= ENOUGH_POINTS:
        return grid(domains)
    # Every base, data set and set of modules must have been seen; of the other knobs the ends will do.
    seen = {k: d for k, d in domains.items() if k.startswith(("model.", "data.")) or k == "lora.target_modules"}
    endless = [k for k, d in seen.items() if isinstance(d, Interval)]
    if endless or num_points(seen) > ENOUGH_POINTS:
        keys = ", ".join(f"sweep.space.{k}" for k in endless or seen)
        raise ConfigError([f"{keys}: too many to prepare beside an endless space; use choice(...) with fewer values"])
    rest = _corners({k: d for k, d in domains.items() if k not in seen})
    return [{**corner, **point} for corner in rest for point in grid(seen)]


def _corners(domains: Mapping[str, Domain]) -> list[Params]:
    """Return points that together show every choice and both ends of every interval."""
    ends: dict[str, tuple[Scalar, ...]] = {}
    for key, domain in domains.items():
        if isinstance(domain, Choice):
            ends[key] = domain.values
        else:
            ends[key] = tuple(int(v) if domain.is_int else v for v in (domain.low, domain.high))
    most = max((len(values) for values in ends.values()), default=1)
    # The hungriest values come together in the last point: memory is planned by it.
    return [{key: values[min(i, len(values) - 1)] for key, values in ends.items()} for i in range(most)]


def _slots(plan: Plan) -> dict[str, int]:
    """Return how many slots each device gets: what fits, no more than there are trials, evenly where all have room."""
    settings = plan.config.study
    if settings.slots:
        return {device.name: max(1, settings.slots // plan.num_shares) for device in plan.devices}
    fitting = {device.name: _fitting(plan, device) for device in plan.devices}
    most = plan.num_trials
    if not plan.is_grid and settings.sampler not in BLIND:
        most = max(1, most // WAVES)
    return shared_out(most, fitting)


def shared_out(num_trials: int, fitting: Mapping[str, int]) -> dict[str, int]:
    """Deal trials out to devices: what the small ones have no room for, the large ones take. Each has one slot."""
    slots, left = {}, num_trials
    for place, name in enumerate(sorted(fitting, key=lambda name: fitting[name])):
        slots[name] = max(1, min(fitting[name], -(-left // (len(fitting) - place))))
        left -= slots[name]
    return {name: slots[name] for name in fitting}


def _fitting(plan: Plan, device: Device) -> int:
    """Return how many trials fit a device, whichever of its bases and data sets is trained on."""
    specs = [plan.spec(point) for point in plan.points]
    counts = []
    for model in dict.fromkeys(s.model for s in specs):
        same = plan.loads([s for s in specs if s.model == model])
        budget, factor = plan.budget(device.most_bytes), plan.factor(model, device.kind)
        counts.append(slots_that_fit(plan.info(model), same, budget, MOST_SLOTS, kind=device.kind, factor=factor))
    # A base that is too large for this device is another device's affair, or infeasible.
    return min((count for count in counts if count), default=1)
