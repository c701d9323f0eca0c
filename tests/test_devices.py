"""Devices are found without starting CUDA; free memory accounts for all processes."""

import builtins
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lorasweep.core.errors import ConfigError
from lorasweep.devices import nvml
from lorasweep.devices.cpu import free_memory, num_cores, num_threads
from lorasweep.devices.devices import find_devices, free_bytes
from tests.fake_nvml import GIB, FakeGpu, FakeNvml

Gpus = tuple[FakeGpu, FakeGpu, FakeGpu]


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Gpus:
    """Return three unequal GPUs, the last one split into two MIG slices, all visible."""
    slices = [FakeGpu("MIG-a", 40), FakeGpu("MIG-b", 20)]
    three = (FakeGpu("GPU-11", 80, {7: 30}), FakeGpu("GPU-12", 24), FakeGpu("GPU-3", 80, slices=slices))
    monkeypatch.setattr(nvml, "library", lambda: FakeNvml(*three))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return three


def seen(monkeypatch: pytest.MonkeyPatch, listed: str, wanted: str = "auto") -> list[str]:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    return [device.visible for device in find_devices(wanted)]


def test_auto_takes_every_gpu_with_what_others_leave_free(gpus: Gpus) -> None:
    found = find_devices("auto")
    assert [d.visible for d in found] == ["GPU-11", "GPU-12", "MIG-a"]
    assert [d.free_bytes // GIB for d in found] == [50, 24, 40]
    assert [d.most_bytes // GIB for d in found] == [80, 24, 40]


@pytest.mark.parametrize(
    ("listed", "visible"),
    [
        ("1,0", ["GPU-12", "GPU-11"]),
        ("GPU-12", ["GPU-12"]),
        ("GPU-3", ["MIG-a"]),
        ("MIG-b", ["MIG-b"]),
        ("0,9,1", ["GPU-11"]),
    ],
)
def test_visible_devices_are_read_as_cuda_reads_them(
    gpus: Gpus, monkeypatch: pytest.MonkeyPatch, listed: str, visible: list[str]
) -> None:
    assert seen(monkeypatch, listed) == visible


@pytest.mark.parametrize("listed", ["", "-1", "GPU-1", "nonsense", "0,0"])
def test_without_visible_devices_the_cpu_is_used(gpus: Gpus, monkeypatch: pytest.MonkeyPatch, listed: str) -> None:
    """`GPU-1` is a prefix of two names, so CUDA finds no device."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    assert [d.name for d in find_devices("auto")] == ["cpu"]


def test_devices_count_among_the_visible_ones(gpus: Gpus, monkeypatch: pytest.MonkeyPatch) -> None:
    assert seen(monkeypatch, "1,0", "1") == ["GPU-11"]
    assert seen(monkeypatch, "1,0", "GPU-12,1") == ["GPU-12", "GPU-11"]


@pytest.mark.parametrize("wanted", ["3", "0,GPU-9", ",", "0,GPU-11"])
def test_a_gpu_that_is_not_there_or_named_twice_is_refused(gpus: Gpus, wanted: str) -> None:
    with pytest.raises(ConfigError, match=r"devices: .*(no such GPU|twice)"):
        find_devices(wanted)


def test_what_a_worker_has_itself_is_its_to_use(gpus: Gpus) -> None:
    device = find_devices("0")[0]
    assert free_bytes(device, None) == 50 * GIB
    gpus[0].used[99] = 10
    assert free_bytes(device, 99) == 50 * GIB
    assert free_bytes(device, 12345) is None  # a process that NVML does not list


def test_without_the_library_or_its_driver_no_gpus_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def no_pynvml(name: str, *rest: Any) -> Any:
        if name == "pynvml":
            raise ImportError(name)
        return real(name, *rest)

    nvml.library.cache_clear()
    monkeypatch.setattr(builtins, "__import__", no_pynvml)
    assert nvml.gpus() is None and nvml.free_bytes("GPU-1") is None and nvml.used_bytes("GPU-1", 1) is None
    nvml.library.cache_clear()


def test_a_machine_without_nvidia_driver_is_no_error() -> None:
    pynvml = pytest.importorskip("pynvml", reason="needs the extra `gpu`")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        nvml.library.cache_clear()
        assert nvml.gpus() is None
    else:
        assert nvml.gpus()


@pytest.mark.processes
def test_finding_devices_does_not_start_cuda() -> None:
    """The whole path in a process of its own; where there is a GPU, it must still be untouched."""
    code = "import torch; from lorasweep.devices.devices import find_devices; " \
           "find_devices('auto'); print(torch.cuda.is_initialized())"  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    assert subprocess.check_output([sys.executable, "-c", code], env=environment, text=True).strip() == "False"


@pytest.fixture
def group(tmp_path: Path) -> Callable[..., Path]:
    def write(**files: str) -> Path:
        for name, text in files.items():
            (tmp_path / name.replace("_", ".", 1)).write_text(text)
        return tmp_path

    return write


def test_threads_come_from_the_cores_that_may_be_used(
    group: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert num_cores(group()) == 8
    assert num_cores(group(cpu_max="350000 100000")) == 3
    assert num_cores(group(cpu_max="max 100000")) == 8
    assert [num_threads(n, group(cpu_max="600000 100000")) for n in (1, 2, 4, 8)] == [6, 3, 1, 1]


def test_a_containers_memory_is_what_it_leaves(group: Callable[..., Path]) -> None:
    assert free_memory(group(memory_max=str(3 << 20), memory_current=str(1 << 20))) == 2 << 20
    assert free_memory(group(memory_max="max")) > 3 << 20
