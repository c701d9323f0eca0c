"""The error tree.

A user's mistake is a `LoraSweepError` that names the setting, the value and the remedy. Anything else that is raised
is our own mistake or the world's failure, and keeps its traceback.
"""

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
