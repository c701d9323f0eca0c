"""Pause launches while the disk is full, and resume them when there is space again."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from lorasweep.core.sizes import MIB

MIN_FREE_BYTES = 64 * MIB  # with less free space no trial starts: results, checkpoints and two databases must grow
RETRY_S = 2.0  # between attempts to write to a full disk; the free space does not show a quota


class DiskGuard:
    """Checks the free space on the disk of a run's folder."""

    def __init__(self, folder: Path, show: Callable[[str], None]) -> None:
        self.folder, self.show = folder, show
        self.is_paused = False
        self._closed_until_s = 0.0

    def has_space(self) -> bool:
        """Return whether there is enough free space; show a note if that has changed."""
        if time.monotonic() < self._closed_until_s:
            return False
        free = shutil.disk_usage(self.folder).free
        if free < MIN_FREE_BYTES:
            self.pause(f"{free / MIB:.0f} MiB are free, {MIN_FREE_BYTES / MIB:.0f} are needed")
            return False
        if self.is_paused:
            self.is_paused = False
            self.show("there is free space on the disk again; continuing")
        return True

    def pause(self, reason: str) -> None:
        """Pause because a file or database could not be written."""
        self._closed_until_s = time.monotonic() + RETRY_S
        if not self.is_paused:
            self.is_paused = True
            self.show(f"the disk of {self.folder} is full ({reason}); paused until there is space, nothing is lost")
