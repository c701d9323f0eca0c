"""A worker in a process of its own, pinned to one GPU before CUDA starts.

A worker that dies is a `BrokenProcessPool` in its future, not a hang.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import replace

from lorasweep.result import Command, Event
from lorasweep.worker import Worker, WorkerSettings

_worker: Worker | None = None


class LocalExecutor:
    """A spawned process with one worker."""

    def __init__(self, settings: WorkerSettings) -> None:
        self.pool = ProcessPoolExecutor(
            max_workers=1, mp_context=multiprocessing.get_context("spawn"), initializer=_begin, initargs=(settings,)
        )

    @property
    def pid(self) -> int | None:
        """Return the worker's process, None before its first call."""
        return next(iter(self.pool._processes or {}), None)

    def submit(self, commands: Sequence[Command]) -> "Future[list[Event]]":
        return self.pool.submit(_advance, list(commands))

    def close(self) -> None:
        """End the process, whatever it is doing: what counts is on disk already."""
        processes = list((self.pool._processes or {}).values())
        self.pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
            process.join()


def _begin(settings: WorkerSettings) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to handle
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if settings.device.startswith("cuda:"):
        os.environ["CUDA_VISIBLE_DEVICES"] = settings.visible
        settings = replace(settings, device="cuda:0")
    _worker = Worker(settings)


def _end_with_parent() -> None:
    """A driver that is killed must not leave a worker, and its device's memory, behind."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _advance(commands: list[Command]) -> list[Event]:
    assert _worker is not None
    return _worker.advance(commands)
