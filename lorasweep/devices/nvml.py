"""NVML, the driver's library that knows GPUs, their memory and who uses it, without starting CUDA.

The one module that imports it. Where it is missing (no driver, no `nvidia-ml-py`) there is simply nothing to tell.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A GPU, or a MIG slice of one: `index` counts physical GPUs in the order of their PCI addresses."""

    index: int
    uuid: str
    name: str
    free_bytes: int
    total_bytes: int
    slices: "tuple[Gpu, ...]" = ()


def gpus() -> tuple[Gpu, ...] | None:
    """Return every GPU of the machine, whoever uses it; None where NVML is not to be had."""
    nvml = library()
    if nvml is None:
        return None
    handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
    return tuple(_gpu(nvml, i, handle, tuple(_slices(nvml, i, handle))) for i, handle in enumerate(handles))


def free_bytes(uuid: str) -> int | None:
    """Return what is free on a GPU now, other people's processes counted; None where nobody can tell."""
    nvml = library()
    if nvml is None:
        return None
    try:
        return int(nvml.nvmlDeviceGetMemoryInfo(nvml.nvmlDeviceGetHandleByUUID(uuid)).free)
    except nvml.NVMLError:
        return None


def used_bytes(uuid: str, pid: int) -> int | None:
    """Return what a process has of a GPU; None where NVML does not see it, as in most containers."""
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
    """Return the initialised library, None where it or the driver is missing."""
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
    """Yield the MIG slices of a GPU that is cut into such."""
    try:
        is_cut = nvml.nvmlDeviceGetMigMode(handle)[0] == nvml.NVML_DEVICE_MIG_ENABLE
    except nvml.NVMLError:  # most GPUs cannot be cut
        return
    for place in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle) if is_cut else 0):
        with suppress(nvml.NVMLError):  # places need not all be taken
            yield _gpu(nvml, index, nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, place))


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
