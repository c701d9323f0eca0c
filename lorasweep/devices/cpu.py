"""How many CPU cores and how much memory this process really may use: affinity, and a container's limits."""

import os
from collections.abc import Iterator
from pathlib import Path

import psutil

GROUPS = Path("/sys/fs/cgroup")


def num_cores(groups: Path = GROUPS) -> int:
    """Return the cores that may be used, a quota of one and a half rounded down."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *(int(quota) for quota in _quotas(groups))]))


def num_threads(num_workers: int, groups: Path = GROUPS) -> int:
    """Return CPU threads per worker, so that together they never outnumber the cores."""
    return max(1, num_cores(groups) // num_workers)


def free_memory(groups: Path = GROUPS) -> int:
    """Return the memory that can still be had: the machine's, or what a container leaves of it."""
    found = [int(psutil.virtual_memory().available)]
    for folder in _folders(groups):
        limit, used = _words(folder / "memory.max"), _words(folder / "memory.current")
        if limit and used and limit[0].isdecimal():
            found.append(max(0, int(limit[0]) - int(used[0])))
    return min(found)


def _quotas(groups: Path) -> Iterator[float]:
    """Yield the cores that each control group above this process grants (version 2, then 1)."""
    for folder in _folders(groups):
        words = _words(folder / "cpu.max")
        if len(words) == 2 and words[0].isdecimal():
            yield int(words[0]) / int(words[1])
    quota, period = (_words(groups / "cpu" / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    if quota and period and int(quota[0]) > 0:
        yield int(quota[0]) / int(period[0])


def _folders(groups: Path) -> Iterator[Path]:
    """Yield this process's control group and those that it lies in."""
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
