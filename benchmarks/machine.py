"""Describe the machine that a benchmark ran on, and measure how fast it multiplies.

Figures mean little without it: a ratio that holds on two cores may not hold on sixty-four.
"""

import json
import os
import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

import torch

LIBRARIES = ("torch", "transformers", "peft", "accelerate", "optuna", "mlflow", "bitsandbytes", "ray", "lorasweep")
GEMM_SIZE = 2048  # large enough that a multiplication, not its launch, is timed; 16 MiB a matrix in fp32
GEMM_ROUNDS = 7


def describe_machine(*, with_gemm: bool = False) -> dict[str, object]:
    """Return what a reader needs to place a figure; the GEMM rates take a second and are measured on request."""
    machine: dict[str, object] = {
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "memory_gib": round(memory_gib(), 1),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "torch_threads": torch.get_num_threads(),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", "unset"),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": library_versions(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "load_average": load_average(),
    }
    return {**machine, "gemm_flop_per_s": gemm_rates()} if with_gemm else machine


def cpu_name() -> str:
    """Return the processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def usable_cores() -> int:
    """Return the cores that this process may use, which a container can make fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_gib() -> float:
    """Return the machine's memory."""
    import psutil

    return float(psutil.virtual_memory().total) / 2**30


def load_average() -> float | None:
    """Return the load of the last minute: above a benchmark's own threads it says that the machine was not quiet."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that matter; one that is not installed is left out."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def gemm_rates(device: str | torch.device = "cpu") -> dict[str, float]:
    """Return the measured rate of a large square multiplication in fp32 and bf16."""
    return {name: gemm_rate(dtype, device) for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))}


def gemm_rate(dtype: torch.dtype, device: str | torch.device = "cpu") -> float:
    """Return floating-point operations per second of a large square multiplication, the median of several."""
    a = torch.randn(GEMM_SIZE, GEMM_SIZE, device=device).to(dtype)
    b = torch.randn(GEMM_SIZE, GEMM_SIZE, device=device).to(dtype)
    times = [seconds(partial(torch.matmul, a, b), device) for _ in range(GEMM_ROUNDS + 1)]
    return 2 * GEMM_SIZE**3 / median(times[1:])  # the first one warms up


def seconds(act: Callable[[], object], device: str | torch.device = "cpu") -> float:
    """Return how long something takes, on a GPU until it has really ended."""
    _wait(device)
    started = time.perf_counter()
    act()
    _wait(device)
    return time.perf_counter() - started


def _wait(device: str | torch.device) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    print(json.dumps(describe_machine(with_gemm=True), indent=2))
