"""The GPUs that a process sees: `CUDA_VISIBLE_DEVICES`, interpreted as CUDA does.

Without NVML a short-lived process asks PyTorch instead: the driver's own process never starts CUDA, which would take
memory on every GPU and cannot be undone.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from runpy import run_path

from lorasweep.devices import nvml
from lorasweep.devices.nvml import Gpu

QUERY = """
import json, torch
every = range(torch.cuda.device_count())
print(json.dumps([[torch.cuda.get_device_name(i), *torch.cuda.mem_get_info(i)] for i in every]))
"""
TIMEOUT_S = 120.0  # for a process to import PyTorch and start CUDA


def visible_gpus(environment: Mapping[str, str] | None = None) -> tuple[Gpu, ...]:
    """Return the GPUs, or MIG slices, that a process with this environment would see, in its order."""
    environment = os.environ if environment is None else environment
    listed = environment.get("CUDA_VISIBLE_DEVICES")
    if listed is not None and not listed.strip():
        return ()
    every = nvml.gpus()
    if every is None:
        return _query_torch()
    return chosen(every, listed)


def chosen(every: Sequence[Gpu], listed: str | None) -> tuple[Gpu, ...]:
    """Return the GPUs that a value of `CUDA_VISIBLE_DEVICES` selects.

    Like CUDA, stop at the first unknown GPU, and return none if one is listed twice.
    """
    if listed is None:
        return tuple(_usable(gpu) for gpu in every)
    found: list[Gpu] = []
    for word in listed.split(","):
        gpu = named(every, word.strip())
        if gpu is None:
            break
        if gpu in found:
            return ()
        found.append(gpu)
    return tuple(found)


def named(every: Sequence[Gpu], word: str) -> Gpu | None:
    """Return the GPU with this index, UUID, UUID prefix or MIG name; None if there is none, or if several match."""
    if word.isdecimal():
        return _usable(every[int(word)]) if int(word) < len(every) else None
    if not word.startswith(("GPU-", "MIG-")):
        return None
    parts = [part for gpu in every for part in (gpu, *gpu.slices) if part.uuid.startswith(word)]
    return _usable(parts[0]) if len(parts) == 1 else None


def _usable(gpu: Gpu) -> Gpu:
    """Return the first MIG slice of a partitioned GPU, as CUDA shows it, or the GPU itself."""
    return gpu.slices[0] if gpu.slices else gpu


def has_surely_no_gpu() -> bool:
    """Return whether this process sees no GPU; False if only a process that starts CUDA could tell."""
    if nvml.gpus() is None and is_built_for_gpus() and os.environ.get("CUDA_VISIBLE_DEVICES") != "":
        return False
    return not visible_gpus()


def is_built_for_gpus() -> bool:
    """Read PyTorch's version file; importing PyTorch takes a second, which planning does not need."""
    package = find_spec("torch")
    assert package is not None and package.origin is not None, "torch is a dependency"
    version = run_path(str(Path(package.origin).with_name("version.py")))
    return version.get("cuda") is not None or version.get("hip") is not None


def _query_torch() -> tuple[Gpu, ...]:
    """Ask PyTorch in a separate process, if it was built for GPUs."""
    if not is_built_for_gpus():
        return ()
    try:
        done = subprocess.run(
            [sys.executable, "-c", QUERY], capture_output=True, text=True, timeout=TIMEOUT_S, check=True
        )
        rows = json.loads(done.stdout.splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return ()
    listed = [word.strip() for word in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if word.strip()]
    ids = listed if len(listed) >= len(rows) else [str(i) for i in range(len(rows))]
    return tuple(
        Gpu(index=i, uuid=ids[i], name=name, free_bytes=free, total_bytes=total)
        for i, (name, free, total) in enumerate(rows)
    )
