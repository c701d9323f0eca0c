"""Exceptions, and functions that classify errors.

A user's mistake raises a `LoraSweepError` that names the setting, the value and the remedy. Any other exception is a
bug or a failure of the system, and keeps its traceback.
"""

import errno
import re
from collections.abc import Sequence


class LoraSweepError(Exception):
    """A mistake that the user can correct; the message says how."""


class ConfigError(LoraSweepError):
    """All mistakes of a configuration, one per line."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        count = "1 mistake" if len(self.problems) == 1 else f"{len(self.problems)} mistakes"
        super().__init__(f"{count} in the configuration:\n" + "\n".join(f"  - {p}" for p in self.problems))


class DataError(LoraSweepError):
    """A data file is missing or malformed; the message names file and line."""


class ModelError(LoraSweepError):
    """A base cannot be found, read or adapted as requested."""


class AlreadyRunning(LoraSweepError):
    """Another driver is using this run folder."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the error is an out-of-memory error; on the CPU PyTorch raises a plain RuntimeError."""
    named = any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)
    return named or isinstance(error, MemoryError) or "can't allocate memory" in str(error)


def unusable_path(error: BaseException | None) -> str:
    """Return the file or folder that cannot be read or written, and why; empty for any other error."""
    kinds = (PermissionError, NotADirectoryError, IsADirectoryError, FileExistsError)
    while error is not None:
        is_path = isinstance(error, kinds) or (isinstance(error, OSError) and error.errno == errno.EROFS)
        if is_path and isinstance(error, OSError) and error.filename:
            return f"{error.filename}: {error.strerror}"
        if "readonly database" in str(error):  # SQLite's message
            return "a database: it is read-only"
        error = error.__cause__ or error.__context__
    return ""


def is_disk_full(error: BaseException | None) -> bool:
    """Return whether the error means that the disk, or the quota, is full. Errors that databases wrap count too."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "disk is full" in str(error):  # SQLite's message
            return True
        error = error.__cause__ or error.__context__
    return False


class HubUnreachable(DataError):
    """The hub does not answer, and the data set is not in its local cache."""


# Error messages of PyTorch, bitsandbytes and NVIDIA's libraries when the GPU or its CUDA context fails. After such an
# error, every later call in the same process fails too.
DEVICE_ERRORS = re.compile(
    r"CUDA error|CUDA driver error|device-side assert|illegal memory access|misaligned address"
    r"|unspecified launch failure|CUDNN_STATUS_|cuDNN error|CUBLAS_STATUS_|CUSOLVER_STATUS_|CUFFT_STATUS_"
    r"|uncorrectable ECC|\bXid\b"
    r"|has fallen off the bus|No CUDA GPUs are available|CUDA unknown error|CUDA-capable device\(s\) is/are busy"
)


def is_device_error(text: str) -> bool:
    """Return whether the error text means that the GPU failed, rather than the trial."""
    return DEVICE_ERRORS.search(text) is not None
