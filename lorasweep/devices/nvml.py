"""NVML, the NVIDIA driver's library for GPUs, their memory and processes; it does not start CUDA.

Only this module imports it. If it is missing (no driver, no `nvidia-ml-py`), functions return None.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A GPU, or a MIG slice of one: `index` counts physical GPUs by PCI address."""

    index: int
    uuid: str
    name: str
    free_bytes: int
    total_bytes: int
    slices: "tuple[Gpu, ...]" = ()


def gpus() -> tuple[Gpu, ...] | None:
    """Return all GPUs of the machine, visible or not; None if NVML is missing."""
    nvml = library()
    if nvml is None:
        return None
    handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
    return tuple(_gpu(nvml, i, handle, tuple(_slices(nvml, i, handle))) for i, handle in enumerate(handles))


def free_bytes(uuid: str) -> int | None:
    """Return the bytes that no process uses on a GPU; None if unknown."""
    nvml = library()
    if nvml is None:
        return None
    try:
        return int(nvml.nvmlDeviceGetMemoryInfo(nvml.nvmlDeviceGetHandleByUUID(uuid)).free)
    except nvml.NVMLError:
        return None


def used_bytes(uuid: str, pid: int) -> int | None:
    """Return the bytes that a process uses on a GPU; None if NVML does not see the process, as in most containers."""
    nvml = library()
    if nvml is None:
        return None
    try:
        processes = nvml.nvmlDeviceGetComputeRunningProcesses(nvml.nvmlDeviceGetHandleByUUID(uuid))
    except nvml.NVMLError:
        return None
    found = [process.usedGpuMemory for process in processes if process.pid == pid]
    return int(found[0]) if found and found[0] is not None else None


@cache
def library() -> Any:
    """Return the initialised library; None if it or the driver is missing."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # LibraryNotFound without a driver, DriverNotLoaded, NoPermission
        return None
    return pynvml


def _gpu(nvml: Any, index: int, handle: Any, slices: tuple[Gpu, ...] = ()) -> Gpu:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    name = nvml.nvmlDeviceGetName(handle)
    return Gpu(
        index=index,
        uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
        name=_text(name),
        free_bytes=int(memory.free),
        total_bytes=int(memory.total),
        slices=slices,
    )


def _slices(nvml: Any, index: int, handle: Any) -> Iterator[Gpu]:
    """Yield the MIG slices of a partitioned GPU."""
    try:
        is_partitioned = nvml.nvmlDeviceGetMigMode(handle)[0] == nvml.NVML_DEVICE_MIG_ENABLE
    except nvml.NVMLError:  # most GPUs do not support MIG
        return
    for place in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle) if is_partitioned else 0):
        with suppress(nvml.NVMLError):  # there may be fewer slices than the maximum
            yield _gpu(nvml, index, nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, place))


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
