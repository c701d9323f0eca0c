"""The error tree.

A user's mistake is a `LoraSweepError` that names the setting, the value and the remedy. Anything else that is raised
is our own mistake or the world's failure, and keeps its traceback.
"""

import errno
import re
from collections.abc import Sequence


class LoraSweepError(Exception):
    """A mistake the user can mend; its text says how."""


class ConfigError(LoraSweepError):
    """Every mistake of a configuration at once, one per line."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        count = "1 mistake" if len(self.problems) == 1 else f"{len(self.problems)} mistakes"
        super().__init__(f"{count} in the configuration:\n" + "\n".join(f"  - {p}" for p in self.problems))


class DataError(LoraSweepError):
    """A data file that is missing or malformed; names file and line."""


class ModelError(LoraSweepError):
    """A base that cannot be found, read or adapted as asked."""


class AlreadyRunning(LoraSweepError):
    """Another driver holds this run directory."""


def is_out_of_memory(error: BaseException) -> bool:
    """Tell an exhausted device from any other failure; on the CPU PyTorch raises a plain RuntimeError."""
    named = any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)
    return named or isinstance(error, MemoryError) or "can't allocate memory" in str(error)


def unusable_path(error: BaseException | None) -> str:
    """Return which file or folder cannot be used as it is, and why; empty where an error is none of these."""
    kinds = (PermissionError, NotADirectoryError, IsADirectoryError, FileExistsError)
    while error is not None:
        is_path = isinstance(error, kinds) or (isinstance(error, OSError) and error.errno == errno.EROFS)
        if is_path and isinstance(error, OSError) and error.filename:
            return f"{error.filename}: {error.strerror}"
        if "readonly database" in str(error):  # SQLite's words
            return "a database: it is read-only"
        error = error.__cause__ or error.__context__
    return ""


def is_disk_full(error: BaseException | None) -> bool:
    """Tell a full disk, or a quota that is used up, from any other failure; databases wrap the system's error."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "disk is full" in str(error):  # SQLite's words
            return True
        error = error.__cause__ or error.__context__
    return False


class HubUnreachable(DataError):
    """The hub does not answer, and a data set is not among those that were downloaded before."""


# How PyTorch, bitsandbytes and NVIDIA's libraries name a failure of the GPU or of its CUDA context. After one of these,
# every later call in the same process fails, too.
DEVICE_ERRORS = re.compile(
    r"CUDA error|CUDA driver error|device-side assert|illegal memory access|misaligned address"
    r"|unspecified launch failure|CUDNN_STATUS_|cuDNN error|CUBLAS_STATUS_|CUSOLVER_STATUS_|CUFFT_STATUS_"
    r"|uncorrectable ECC|\bXid\b"
    r"|has fallen off the bus|No CUDA GPUs are available|CUDA unknown error|CUDA-capable device\(s\) is/are busy"
)


def is_device_error(text: str) -> bool:
    """Tell from an error's text whether the GPU failed, and not the trial that ran on it."""
    return DEVICE_ERRORS.search(text) is not None
