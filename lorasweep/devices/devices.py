"""The devices that get a worker, and their free memory."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lorasweep.core.errors import ConfigError
from lorasweep.core.sizes import GIB
from lorasweep.devices import nvml
from lorasweep.devices.cpu import free_memory, num_cores
from lorasweep.devices.cuda_visible import named, visible_gpus
from lorasweep.devices.nvml import Gpu


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device that gets a worker: `cpu`, a share of it such as `cpu:0`, or the index of a visible GPU.

    `visible` is the value of `CUDA_VISIBLE_DEVICES` that selects only this GPU.
    """

    name: str
    free_bytes: int
    total_bytes: int
    description: str
    visible: str = ""

    @property
    def is_gpu(self) -> bool:
        return not self.name.startswith("cpu")

    def shared_by(self, workers: int) -> tuple["Device", ...]:
        """Divide the CPU into equal shares."""
        if workers == 1:
            return (self,)
        free, total = self.free_bytes // workers, self.total_bytes // workers
        return tuple(replace(self, name=f"{self.name}:{i}", free_bytes=free, total_bytes=total) for i in range(workers))

    @property
    def kind(self) -> str:
        return "cuda" if self.is_gpu else "cpu"

    @property
    def most_bytes(self) -> int:
        """Return the most that may become usable: a GPU's total memory, or the CPU's free memory."""
        return self.total_bytes if self.is_gpu else self.free_bytes


def find_devices(wanted: str) -> tuple[Device, ...]:
    """Return the devices of `devices=auto|cpu|0,1`; `auto` is every visible GPU, or the CPU if there is none.

    Raises:
        ConfigError: a requested GPU does not exist, or is listed twice.
    """
    if wanted == "cpu":
        return (_cpu(),)
    gpus = visible_gpus()
    if wanted == "auto":
        return tuple(_device(i, gpu) for i, gpu in enumerate(gpus)) or (_cpu(),)
    words = [word.strip() for word in str(wanted).split(",") if word.strip()]
    found = [_wanted(gpus, word) for word in words]
    missing = [word for word, device in zip(words, found, strict=True) if device is None]
    if missing or not words:
        there = ", ".join(f"{i} ({gpu.name}, {gpu.uuid})" for i, gpu in enumerate(gpus)) or "none"
        raise ConfigError(
            [f"devices: {wanted!r}: no such GPU: {', '.join(missing)}; visible: {there}; or write auto, cpu"]
        )
    devices = tuple(device for device in found if device)
    if len({device.name for device in devices}) < len(devices):
        raise ConfigError([f"devices: {wanted!r} lists a GPU twice; list it once, because it gets one worker"])
    return devices


def free_bytes(device: Device, pid: int | None) -> int | None:
    """Return the bytes that a worker in process `pid` may use now: free memory and its own.

    On the CPU this is the memory that was free at the start. None if unknown.
    """
    if not device.is_gpu:
        return device.free_bytes
    free = nvml.free_bytes(device.visible)
    if free is None or pid is None:
        return free
    own = nvml.used_bytes(device.visible, pid)
    return None if own is None else free + own


def _wanted(gpus: Sequence[Gpu], word: str) -> Device | None:
    if word.isdecimal():
        return _device(int(word), gpus[int(word)]) if int(word) < len(gpus) else None
    gpu = named(gpus, word)
    return _device(list(gpus).index(gpu), gpu) if gpu else None


def _device(place: int, gpu: Gpu) -> Device:
    return Device(
        name=str(place),
        free_bytes=gpu.free_bytes,
        total_bytes=gpu.total_bytes,
        description=f"{gpu.name}, {gpu.total_bytes / GIB:.0f} GiB",
        visible=gpu.uuid,
    )


def _cpu() -> Device:
    free = free_memory()
    return Device(name="cpu", free_bytes=free, total_bytes=free, description=f"CPU, {num_cores()} cores")
