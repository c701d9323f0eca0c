"""Whether the disk has room. Launches pause while it has not, and go on by themselves once it has again."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from lorasweep.core.sizes import MIB

MIN_FREE_BYTES = 64 * MIB  # below this no trial starts: results, checkpoints and two databases have to grow
RETRY_S = 2.0  # until a full disk is tried again; a quota does not show in the free space


class DiskGuard:
    """Watches the disk of a run's folder."""

    def __init__(self, folder: Path, show: Callable[[str], None]) -> None:
        self.folder, self.show = folder, show
        self.is_paused = False
        self._closed_until_s = 0.0

    def has_space(self) -> bool:
        """Tell whether there is room, and show so where that has changed."""
        if time.monotonic() < self._closed_until_s:
            return False
        free = shutil.disk_usage(self.folder).free
        if free < MIN_FREE_BYTES:
            self.pause(f"{free / MIB:.0f} MiB are free, {MIN_FREE_BYTES / MIB:.0f} are needed")
            return False
        if self.is_paused:
            self.is_paused = False
            self.show("there is room on the disk again; going on")
        return True

    def pause(self, reason: str) -> None:
        """Pause because something could not be written."""
        self._closed_until_s = time.monotonic() + RETRY_S
        if not self.is_paused:
            self.is_paused = True
            self.show(f"the disk of {self.folder} is full ({reason}); paused until there is room, nothing is lost")
