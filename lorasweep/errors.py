"""The error tree.

A user's mistake is a `LoraSweepError` that names the setting, the value and the remedy. Anything else that is raised
is our own mistake or the world's failure, and keeps its traceback.
"""

import errno
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


def is_disk_full(error: BaseException | None) -> bool:
    """Tell a full disk, or a quota that is used up, from any other failure; databases wrap the system's error."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "disk is full" in str(error):  # SQLite's words
            return True
        error = error.__cause__ or error.__context__
    return False


class HubAway(DataError):
    """The hub does not answer, and a data set is not among those that were downloaded before."""
