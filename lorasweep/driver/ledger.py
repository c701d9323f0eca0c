"""What really happened: a folder per trial with its result.

Study and tracker are projections that can be replayed from it.
"""

import json
import logging
import shutil
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lorasweep.core.errors import AlreadyRunning
from lorasweep.core.files import set_aside, write_json, write_text
from lorasweep.core.messages import CHECKPOINT
from lorasweep.core.result import TrialResult, TrialState
from lorasweep.core.stored import RUN, from_json, to_json

log = logging.getLogger(__name__)

OWNER_WAIT_S = 2.0  # for which a launch that is refused waits to learn by whom


class Ledger:
    """A run's folder, held by one driver at a time: `owner` says by whom, for those that come later."""

    def __init__(self, folder: Path, owner: str = "") -> None:
        self.folder = folder.resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.lock = FileLock(self.folder / ".lock")
        self._acquire(owner)
        self.run = self._identified()
        self.results = {result.number: result for result in self._read()}
        for number in self.results:  # of a driver that died just after it wrote the result
            self.drop_checkpoint(number)

    def close(self) -> None:
        """Let another driver have the folder."""
        if self.lock.is_locked:
            (self.folder / "owner.json").unlink(missing_ok=True)
        self.lock.release()

    def write(self, result: TrialResult) -> None:
        """Keep a result; only then may the study and the tracker hear of it."""
        write_json(self.trial_folder(result.number) / "result.json", to_json(result, self.run))
        self.results[result.number] = result
        self.drop_checkpoint(result.number)

    def set_failed_aside(self) -> None:
        """Forget the results of failed trials, so that they run again; their files stay under another name."""
        for number in [n for n, result in self.results.items() if result.state is TrialState.FAILED]:
            file = self.trial_folder(number) / "result.json"
            file.replace(file.with_name(f"result.failed-{time.time():.0f}.json"))
            del self.results[number]

    def trial_folder(self, number: int) -> Path:
        """Return where a trial's files are."""
        return self.folder / "trials" / f"{number:04d}"

    def adapter_folder(self, number: int) -> Path:
        """Return where a trial's adapter is."""
        return self.trial_folder(number) / "adapter"

    def drop_adapter(self, number: int) -> None:
        """Delete an adapter that is not worth keeping."""
        shutil.rmtree(self.adapter_folder(number), ignore_errors=True)

    def drop_checkpoint(self, number: int) -> None:
        """Delete what a trial in flight would go on from."""
        (self.trial_folder(number) / CHECKPOINT).unlink(missing_ok=True)

    def drop_checkpoints(self) -> None:
        """Have every trial in flight begin again."""
        for file in (self.folder / "trials").glob(f"*/{CHECKPOINT}"):
            file.unlink()

    @property
    def num_saved(self) -> int:
        """Return how many trials have no result yet and a checkpoint to go on from."""
        return len(list((self.folder / "trials").glob(f"*/{CHECKPOINT}")))

    def attempt(self, number: int) -> int:
        """Return how many workers have died under a trial."""
        found = self.noted(f"trials/{number:04d}/attempt").get("attempt", 0)
        return found if isinstance(found, int) else 0

    def note_attempt(self, number: int, attempt: int, reason: str) -> None:
        """Count a worker's death under a trial."""
        self.note(f"trials/{number:04d}/attempt", {"attempt": attempt, "reason": reason})

    def is_exported(self, number: int, destination: str) -> bool:
        """Tell whether the tracker at `destination` has a trial's result."""
        mark = self.trial_folder(number) / "exported"
        return not destination or (mark.is_file() and mark.read_bytes() == destination.encode())

    def mark_exported(self, number: int, destination: str) -> None:
        """Note that the tracker at `destination` has a trial's result."""
        if destination:
            write_text(self.trial_folder(number) / "exported", destination)

    def note(self, name: str, value: Mapping[str, Any]) -> None:
        """Keep a fact of the whole run, such as the winner's test scores."""
        write_json(self.folder / f"{name}.json", value)

    def noted(self, name: str) -> dict[str, Any]:
        """Return a fact of the whole run, empty where there is none."""
        try:
            value = json.loads((self.folder / f"{name}.json").read_text())
        except (OSError, ValueError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}

    def _acquire(self, owner: str) -> None:
        try:
            self.lock.acquire(timeout=0)
        except Timeout:
            raise AlreadyRunning(f"{self.folder} is in use by {self._owner()}; wait for it, or stop it first") from None
        if owner:
            self.note("owner", {"owner": owner})

    def _owner(self) -> str:
        """Return who holds the folder; whoever took it this very moment has yet to sign."""
        deadline = time.monotonic() + OWNER_WAIT_S
        while not (owner := self.noted("owner").get("owner")) and time.monotonic() < deadline:
            time.sleep(0.01)
        return str(owner or "another process")

    def _identified(self) -> str:
        """Return the name of this run, which moves with its folder; results and tracked runs are found by it.

        A folder from before runs had names goes by its path, as its tracked runs do.
        """
        run = self.noted("run").get("id")
        if isinstance(run, str) and run:
            return run
        found = Counter(self._runs_of_results())
        old = str(self.folder) if (self.folder / "study.db").exists() else uuid.uuid4().hex
        run = found.most_common(1)[0][0] if found else old
        self.note("run", {"id": run})
        return run

    def _runs_of_results(self) -> Iterator[str]:
        """Yield the run that each result names; older ones name none."""
        for file in (self.folder / "trials").glob("*/result.json"):
            with suppress(OSError, ValueError, RecursionError, AttributeError):
                if run := json.loads(file.read_text()).get(RUN):
                    yield str(run)

    def _read(self) -> list[TrialResult]:
        results = []
        for file in sorted((self.folder / "trials").glob("*/result.json")):
            try:
                results.append(from_json(json.loads(file.read_text()), self.run, int(file.parent.name)))
            except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                aside = set_aside(file)
                log.warning("%s cannot be read (%s); it is kept as %s, the trial will run again", file, error, aside)
        return results
