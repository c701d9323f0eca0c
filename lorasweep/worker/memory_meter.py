"""Measure the peak memory of this process since the last reset."""

import os
from pathlib import Path

import torch


class Meter:
    """Peak bytes of a device: PyTorch's allocator on a GPU, resident memory above the start on the CPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.init()  # type: ignore[no-untyped-call]  # without it, a new process cannot reset the peak
        self.start_bytes = 0 if device.type == "cuda" else _status_bytes("VmRSS")
        self.reset()

    def reset(self) -> None:
        """Reset the peak."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            return
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            return  # not supported: the peak covers the whole life of the process

    def peak_bytes(self) -> int:
        """Return the peak since the last reset."""
        if self.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self.device))
        return max(0, _status_bytes("VmHWM") - self.start_bytes)


def _status_bytes(field: str) -> int:
    """Return a line of /proc/self/status in bytes; other systems report only the peak of the process."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if os.uname().sysname == "Darwin" else peak * 1024
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
