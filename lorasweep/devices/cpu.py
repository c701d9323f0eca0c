"""The CPU cores and the memory that this process may use, with respect to affinity and a container's limits."""

import os
from collections.abc import Iterator
from pathlib import Path

import psutil

GROUPS = Path("/sys/fs/cgroup")


def num_cores(groups: Path = GROUPS) -> int:
    """Return the number of usable cores; a fractional quota is rounded down."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *(int(quota) for quota in _quotas(groups))]))


def num_threads(num_workers: int, groups: Path = GROUPS) -> int:
    """Return the CPU threads per worker, so that all workers together use at most the available cores."""
    return max(1, num_cores(groups) // num_workers)


def free_memory(groups: Path = GROUPS) -> int:
    """Return the available memory in bytes: the machine's, or less if a container's limit is lower."""
    found = [int(psutil.virtual_memory().available)]
    for folder in _folders(groups):
        limit, used = _words(folder / "memory.max"), _words(folder / "memory.current")
        if limit and used and limit[0].isdecimal():
            found.append(max(0, int(limit[0]) - int(used[0])))
    return min(found)


def _quotas(groups: Path) -> Iterator[float]:
    """Yield the number of cores that each enclosing control group grants (version 2, then 1)."""
    for folder in _folders(groups):
        words = _words(folder / "cpu.max")
        if len(words) == 2 and words[0].isdecimal():
            yield int(words[0]) / int(words[1])
    quota, period = (_words(groups / "cpu" / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    if quota and period and int(quota[0]) > 0:
        yield int(quota[0]) / int(period[0])


def _folders(groups: Path) -> Iterator[Path]:
    """Yield this process's control group and its parents."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    own = next((line.removeprefix("0::").strip("/") for line in lines if line.startswith("0::")), "")
    folder = groups / own
    while folder != groups and folder.is_relative_to(groups):
        yield folder
        folder = folder.parent
    yield groups


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []
