"""The results on disk: a folder per trial.

Study and tracker can be rebuilt from it.
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
from lorasweep.driver.stored import RUN, from_json, to_json

log = logging.getLogger(__name__)

OWNER_WAIT_S = 2.0  # maximum time that a refused launch waits for the owner's name


class Ledger:
    """A run's folder, used by one driver at a time; `owner` describes that driver to launches that are refused."""

    def __init__(self, folder: Path, owner: str = "") -> None:
        self.folder = folder.resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.lock = FileLock(self.folder / ".lock")
        self._acquire(owner)
        self.run = self._identified()
        self.results = {result.number: result for result in self._read()}
        for number in self.results:  # checkpoints of a driver that died just after it wrote the result
            self.drop_checkpoint(number)

    def close(self) -> None:
        """Release the folder for another driver."""
        if self.lock.is_locked:
            (self.folder / "owner.json").unlink(missing_ok=True)
        self.lock.release()

    def write(self, result: TrialResult) -> None:
        """Write a result. The study and the tracker may get it only afterwards."""
        write_json(self.trial_folder(result.number) / "result.json", to_json(result, self.run))
        self.results[result.number] = result
        self.drop_checkpoint(result.number)

    def set_failed_aside(self) -> None:
        """Remove the results of failed trials, so that they run again; their files are renamed."""
        for number in [n for n, result in self.results.items() if result.state is TrialState.FAILED]:
            file = self.trial_folder(number) / "result.json"
            file.replace(file.with_name(f"result.failed-{time.time():.0f}.json"))
            del self.results[number]

    def trial_folder(self, number: int) -> Path:
        """Return the folder of a trial."""
        return self.folder / "trials" / f"{number:04d}"

    def adapter_folder(self, number: int) -> Path:
        """Return the folder of a trial's adapter."""
        return self.trial_folder(number) / "adapter"

    def drop_adapter(self, number: int) -> None:
        """Delete a trial's adapter."""
        shutil.rmtree(self.adapter_folder(number), ignore_errors=True)

    def drop_checkpoint(self, number: int) -> None:
        """Delete a trial's checkpoint."""
        (self.trial_folder(number) / CHECKPOINT).unlink(missing_ok=True)

    def drop_checkpoints(self) -> None:
        """Delete all checkpoints, so that unfinished trials start again."""
        for file in (self.folder / "trials").glob(f"*/{CHECKPOINT}"):
            file.unlink()

    @property
    def num_saved(self) -> int:
        """Return how many unfinished trials have a checkpoint."""
        return num_saved(self.folder)

    def attempt(self, number: int) -> int:
        """Return how many workers failed while a trial ran."""
        found = self.noted(f"trials/{number:04d}/attempt").get("attempt", 0)
        return found if isinstance(found, int) else 0

    def note_attempt(self, number: int, attempt: int, reason: str) -> None:
        """Store that a worker failed while a trial ran."""
        self.note(f"trials/{number:04d}/attempt", {"attempt": attempt, "reason": reason})

    def is_exported(self, number: int, destination: str) -> bool:
        """Return whether the tracker at `destination` has a trial's result."""
        mark = self.trial_folder(number) / "exported"
        return not destination or (mark.is_file() and mark.read_bytes() == destination.encode())

    def mark_exported(self, number: int, destination: str) -> None:
        """Store that the tracker at `destination` has a trial's result."""
        if destination:
            write_text(self.trial_folder(number) / "exported", destination)

    def note(self, name: str, value: Mapping[str, Any]) -> None:
        """Store a fact about the whole run, such as the winner's test scores."""
        write_json(self.folder / f"{name}.json", value)

    def noted(self, name: str) -> dict[str, Any]:
        """Return a stored fact about the whole run; empty if there is none."""
        return read_note(self.folder, name)

    def _acquire(self, owner: str) -> None:
        try:
            self.lock.acquire(timeout=0)
        except Timeout:
            raise AlreadyRunning(f"{self.folder} is in use by {self._owner()}; wait for it, or stop it first") from None
        if owner:
            self.note("owner", {"owner": owner})

    def _owner(self) -> str:
        """Return the owner of the folder; wait, because a new owner may not have written its name yet."""
        deadline = time.monotonic() + OWNER_WAIT_S
        while not (owner := self.noted("owner").get("owner")) and time.monotonic() < deadline:
            time.sleep(0.01)
        return str(owner or "another process")

    def _identified(self) -> str:
        """Return the id of this run, which stays the same when its folder moves; results and tracked runs carry it.

        A folder of a version without run ids uses its path, as its tracked runs do.
        """
        run = self.noted("run").get("id")
        if isinstance(run, str) and run:
            return run
        old = str(self.folder) if (self.folder / "study.db").exists() else uuid.uuid4().hex
        run = run_of_results(self.folder) or old
        self.note("run", {"id": run})
        return run

    def _read(self) -> list[TrialResult]:
        results = []
        for file, found in read_results(self.folder, self.run):
            if isinstance(found, TrialResult):
                results.append(found)
                continue
            aside = set_aside(file)
            log.warning("%s cannot be read (%s); it is kept as %s, the trial will run again", file, found, aside)
        return results


def read_note(folder: Path, name: str) -> dict[str, Any]:
    """Return the JSON object in `name`.json of a run folder; empty if there is none."""
    try:
        value = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def read_results(folder: Path, run: str) -> Iterator[tuple[Path, TrialResult | Exception]]:
    """Yield the file of each result of a run, in order, with the result or the reason why it cannot be used."""
    for file in sorted((folder / "trials").glob("*/result.json")):
        try:
            yield file, from_json(json.loads(file.read_text(encoding="utf-8")), run, int(file.parent.name))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            yield file, error


def run_of_results(folder: Path) -> str:
    """Return the run id that most results of a folder carry; empty if none does, as in older versions."""
    found: Counter[str] = Counter()
    for file in (folder / "trials").glob("*/result.json"):
        with suppress(OSError, ValueError, RecursionError, AttributeError):
            if run := json.loads(file.read_text(encoding="utf-8")).get(RUN):
                found[str(run)] += 1
    return next((run for run, _ in found.most_common(1)), "")


def num_saved(folder: Path) -> int:
    """Return the number of trials of a run that have a checkpoint and no result."""
    return len(list((folder / "trials").glob(f"*/{CHECKPOINT}")))
