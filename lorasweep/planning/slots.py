"""Choose how many workers share the CPU, and how many trials share a device."""

from collections.abc import Mapping

from lorasweep.devices.cpu import num_cores
from lorasweep.devices.devices import Device
from lorasweep.memory import slots_that_fit, weight_bytes
from lorasweep.planning.plan import Plan

MAX_SLOTS = 24  # on two CPU cores more slots do not make the packed step faster
MAX_WORKERS = 8  # processes on one CPU
MIN_SLOTS = 6  # per CPU worker, for packing to be worthwhile
MAX_BASES_SHARE = 0.25  # of the memory, for the bases of all CPU workers
NON_ADAPTIVE = ("random", "qmc")  # samplers that do not use results
MIN_ROUNDS = 4  # of results that an adaptive sampler must see, rather than asking for all trials at once


def num_workers(plan: Plan) -> int:
    """Return the number of worker processes on the CPU.

    Threads that share a small operation wait for each other at its end; separate processes do not. But each process
    needs its own base, and its free slots cannot be used by trials of another worker.
    """
    config, (cpu,) = plan.config, plan.devices
    if config.workers or config.executor == "inline":
        return config.workers or 1
    models = {spec.model for spec in (trial.spec for trial in plan.trials)}
    weights = max(weight_bytes(plan.info(model), model) for model in models)
    enough = (num_cores() // (config.threads or 1), MAX_WORKERS, plan.num_slots // MIN_SLOTS)
    return max(1, min(*enough, int(cpu.free_bytes * MAX_BASES_SHARE // weights)))


def slots_of(plan: Plan) -> dict[str, int]:
    """Return the number of slots per device: as many as fit, at most one per trial, evenly distributed."""
    settings = plan.config.study
    if settings.slots:
        return {device.name: max(1, settings.slots // plan.num_shares) for device in plan.devices}
    fitting = {device.name: _fitting(plan, device) for device in plan.devices}
    most = plan.num_trials
    if not plan.is_grid and settings.sampler not in NON_ADAPTIVE:
        most = max(1, most // MIN_ROUNDS)
    return shared_out(most, fitting)


def shared_out(num_trials: int, fitting: Mapping[str, int]) -> dict[str, int]:
    """Distribute trials to devices, at least one each; large devices get the trials that do not fit on small ones."""
    slots, left = {}, num_trials
    for place, name in enumerate(sorted(fitting, key=lambda name: fitting[name])):
        slots[name] = max(1, min(fitting[name], -(-left // (len(fitting) - place))))
        left -= slots[name]
    return {name: slots[name] for name in fitting}


def _fitting(plan: Plan, device: Device) -> int:
    """Return how many trials fit on a device, for any of its bases and data sets."""
    specs = [trial.spec for trial in plan.trials]
    counts = []
    for model in dict.fromkeys(s.model for s in specs):
        same = plan.loads([s for s in specs if s.model == model])
        budget, factor = plan.budget(device.most_bytes), plan.factor(model, device.kind)
        counts.append(slots_that_fit(plan.info(model), same, budget, MAX_SLOTS, kind=device.kind, factor=factor))
    # Trials whose base is too large for this device run on another device, or are infeasible.
    return min((count for count in counts if count), default=1)
