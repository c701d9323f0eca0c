"""A fake pynvml: GPUs with memory, processes of other users, and MIG slices."""

from dataclasses import dataclass, field
from types import SimpleNamespace

GIB = 1 << 30


class NVMLError(Exception):
    """As in pynvml."""


@dataclass(eq=False)
class FakeGpu:
    """A GPU; `used` maps processes to their bytes."""

    uuid: str
    gib: float
    used: dict[int, float] = field(default_factory=dict)
    slices: "list[FakeGpu]" = field(default_factory=list)


class FakeNvml:
    """The functions that nvml.py calls."""

    NVMLError = NVMLError
    NVML_DEVICE_MIG_ENABLE = 1

    def __init__(self, *gpus: FakeGpu) -> None:
        self.gpus = gpus

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeGpu:
        return self.gpus[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> FakeGpu:
        every = [part for gpu in self.gpus for part in (gpu, *gpu.slices)]
        for gpu in every:
            if gpu.uuid == uuid:
                return gpu
        raise NVMLError("not found")

    def nvmlDeviceGetMemoryInfo(self, gpu: FakeGpu) -> SimpleNamespace:
        free = gpu.gib - sum(gpu.used.values())
        return SimpleNamespace(free=int(free * GIB), total=int(gpu.gib * GIB))

    def nvmlDeviceGetComputeRunningProcesses(self, gpu: FakeGpu) -> list[SimpleNamespace]:
        return [SimpleNamespace(pid=pid, usedGpuMemory=int(gib * GIB)) for pid, gib in gpu.used.items()]

    def nvmlDeviceGetName(self, gpu: FakeGpu) -> bytes:
        return f"Fake {gpu.gib:g}".encode()

    def nvmlDeviceGetUUID(self, gpu: FakeGpu) -> str:
        return gpu.uuid

    def nvmlDeviceGetMigMode(self, gpu: FakeGpu) -> tuple[int, int]:
        if not gpu.slices:
            raise NVMLError("not supported")
        return (1, 1)

    def nvmlDeviceGetMaxMigDeviceCount(self, gpu: FakeGpu) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, gpu: FakeGpu, index: int) -> FakeGpu:
        if index >= len(gpu.slices):
            raise NVMLError("no such slice")
        return gpu.slices[index]
