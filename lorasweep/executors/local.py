"""Run a worker in a process of its own, pinned to one GPU before CUDA starts."""

import ctypes
import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from lorasweep.core.logs import quiet
from lorasweep.core.messages import Command, Event, WorkerSettings
from lorasweep.devices.devices import Device, free_bytes
from lorasweep.executors import fork_server
from lorasweep.executors.base import WorkerDied
from lorasweep.executors.reaper import NAME, end_marked, marked, new_mark

if TYPE_CHECKING:
    from lorasweep.worker.worker import Worker

PR_SET_PDEATHSIG = 1
EXIT_S = 2.0  # how long to wait for the exit code of a dead process
_worker: "Worker | None" = None


class LocalExecutor:
    """Runs one worker in a process of its own."""

    def __init__(self, settings: WorkerSettings, device: Device | None = None) -> None:
        self.device = device
        self.mark = new_mark()
        start_method = fork_server.context(is_gpu=settings.device.startswith("cuda"))
        self.pool = ProcessPoolExecutor(1, start_method, initializer=_begin, initargs=(settings, self.mark))
        with marked(self.mark):
            self.pool.submit(int)  # starts the process early, because its imports take long
        # The pool drops its processes when it breaks.
        self.processes: dict[int, multiprocessing.process.BaseProcess] = dict(self.pool._processes or {})

    @property
    def pid(self) -> int | None:
        """Return the id of the worker's process; None if it has ended."""
        return next(iter(self.pool._processes or {}), None)

    def submit(self, commands: Sequence[Command]) -> "Future[list[Event]]":
        """Send the commands to the worker's process.

        Raises:
            WorkerDied: the process has ended.
        """
        answer: Future[list[Event]] = Future()
        try:
            with marked(self.mark):
                future = self.pool.submit(_advance, list(commands))
        except BrokenProcessPool as error:
            raise WorkerDied(self._exit_code) from error
        self.processes |= self.pool._processes or {}
        future.add_done_callback(lambda done: self._pass_on(done, answer))
        return answer

    def _pass_on(self, done: "Future[list[Event]]", answer: "Future[list[Event]]") -> None:
        """Copy the pool's result; a broken pool becomes `WorkerDied`."""
        if done.cancelled():
            answer.cancel()
            return
        error = done.exception()
        if error is None:
            answer.set_result(done.result())
        else:
            answer.set_exception(WorkerDied(self._exit_code) if isinstance(error, BrokenProcessPool) else error)

    def _exit_code(self) -> int | None:
        """Return the exit code of the process, None if unknown; wait while the pool's thread collects it."""
        deadline = time.monotonic() + EXIT_S
        while (codes := [p.exitcode for p in self.processes.values() if p.exitcode is not None]) == []:
            if time.monotonic() > deadline:
                return None
            time.sleep(0.01)
        return codes[-1]

    def free_bytes(self) -> float | None:
        """Return the memory that the worker's process may use on its device; None if unknown."""
        return free_bytes(self.device, self.pid) if self.device else None

    def close(self) -> None:
        """Kill the process and all processes that it started; results are already on disk."""
        self.pool.shutdown(wait=False, cancel_futures=True)
        for pid, process in self.processes.items():
            process.kill()
            _kill_group(pid)
            process.join()
        end_marked(self.mark)


def _kill_group(leader: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def _begin(settings: WorkerSettings, mark: str) -> None:
    global _worker
    gc.disable()  # imported objects stay, and scanning them repeatedly takes a second
    os.environ[NAME] = mark  # the fork server has another
    for number in (signal.SIGINT, signal.SIGTERM):  # the driver handles them and first asks for checkpoints
        signal.signal(number, signal.SIG_IGN)
    os.setsid()  # processes that the worker starts belong to its group and are killed with it
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # also kills a stopped process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if settings.device.startswith("cuda:"):
        os.environ["CUDA_VISIBLE_DEVICES"] = settings.visible
        settings = replace(settings, device="cuda:0")
    quiet()
    from lorasweep.worker.worker import Worker

    _worker = Worker(settings)
    if settings.base is not None:
        with suppress(Exception):  # the first trial tries again, and reports the error
            _worker.trials.load(settings.base)
    gc.freeze()
    gc.enable()


def _end_with_parent() -> None:
    """End this process when the driver ends, so that no worker keeps its device's memory."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    _kill_group(os.getpid())
    os._exit(1)


def _advance(commands: list[Command]) -> list[Event]:
    assert _worker is not None
    return _worker.advance(commands)
