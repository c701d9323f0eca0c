"""Whole launches in separate processes, forked from one process that has imported everything.

So a launch over fake workers costs half a second, and hundreds of them can be killed.
"""

import multiprocessing
import multiprocessing.forkserver
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import mlflow.store.tracking.sqlalchemy_store  # noqa: F401  (for the forks)
import optuna.storages._rdb.storage  # noqa: F401

from lorasweep.cli import main
from lorasweep.executors.table import EXECUTORS
from lorasweep.testing import FakeExecutor

Scene = Callable[[], object]  # prepares a launch's process before it starts; must be picklable
FORKS = multiprocessing.get_context("forkserver")


@dataclass(frozen=True, slots=True)
class Play:
    """A launched sweep in its own process."""

    process: ForkServerProcess
    output: Path

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    @property
    def is_over(self) -> bool:
        return self.process.exitcode is not None

    @property
    def text(self) -> str:
        """Return the output so far of both streams."""
        return self.output.read_text() if self.output.is_file() else ""

    def code(self, timeout_s: float = 120.0) -> int:
        """Wait for the end and return the exit code; negative for a signal."""
        self.process.join(timeout_s)
        assert self.process.exitcode is not None, f"it never ended:\n{self.text}"
        return self.process.exitcode


def open_stage(repo: Path) -> None:
    """Start the process that launches are forked from; it imports modules from its working directory."""
    FORKS.set_forkserver_preload(["tests.faults.stage"])
    before = Path.cwd()
    os.chdir(repo)
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        os.chdir(before)


def perform(folder: Path, output: Path, arguments: tuple[str, ...], scene: Scene | None, *, is_real: bool) -> Play:
    """Launch a sweep; a real one trains."""
    process = FORKS.Process(target=_perform, args=(folder, output, arguments, scene, is_real))
    process.start()
    return Play(process, output)


def _perform(folder: Path, output: Path, arguments: tuple[str, ...], scene: Scene | None, is_real: bool) -> None:
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    os.setpgid(0, 0)
    os.chdir(folder)
    if not is_real:
        EXECUTORS.update(dict.fromkeys(EXECUTORS, lambda settings, device: FakeExecutor()))
    if scene is not None:
        scene()
    sys.exit(main(list(arguments)))
