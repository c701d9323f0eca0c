"""Which devices there are, and what is free on them."""

import os
from dataclasses import dataclass

import psutil

from lorasweep.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device that gets a worker: `cpu`, or the index of a visible GPU."""

    name: str
    free_bytes: int
    description: str

    @property
    def is_gpu(self) -> bool:
        return self.name != "cpu"


def find_devices(wanted: str) -> tuple[Device, ...]:
    """Return the devices that `devices=auto|cpu|0,1` names; `auto` is every visible GPU, or else the CPU.

    Raises:
        ConfigError: a GPU that is not there is asked for.
    """
    if wanted == "cpu":
        return (_cpu(),)
    gpus = _gpus()
    if wanted == "auto":
        return tuple(gpus.values()) or (_cpu(),)
    names = [name.strip() for name in str(wanted).split(",") if name.strip()]
    missing = [name for name in names if name not in gpus]
    if missing or not names:
        there = ", ".join(gpus) or "none"
        raise ConfigError(
            [f"devices: {wanted!r}: no such GPU: {', '.join(missing)}; visible: {there}; or write auto, cpu"]
        )
    return tuple(gpus[name] for name in names)


def num_threads(num_workers: int) -> int:
    """Return CPU threads per worker, so that together they never outnumber the cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // num_workers)


def _cpu() -> Device:
    free = psutil.virtual_memory().available
    return Device(name="cpu", free_bytes=free, description=f"CPU, {num_threads(1)} threads")


def _gpus() -> dict[str, Device]:
    import torch

    found = {}
    for index in range(torch.cuda.device_count()):
        free, _ = torch.cuda.mem_get_info(index)
        found[str(index)] = Device(name=str(index), free_bytes=free, description=torch.cuda.get_device_name(index))
    return found
