"""A process that has imported a worker's libraries, and from which CPU workers are forked.

Imports take seconds, a fork takes none. The process is started before a sweep is planned. GPU workers are spawned: a
library may start CUDA when it is imported, and CUDA does not survive a fork.
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from multiprocessing import forkserver
from multiprocessing.context import BaseContext

from lorasweep.devices.cpu import num_cores
from lorasweep.devices.cuda_visible import has_surely_no_gpu
from lorasweep.executors.reaper import NAME, marked, new_mark

_environment: dict[str, str] = {}  # of the fork server; empty before it is started


def start_for(arguments: Sequence[str]) -> None:
    """Start the fork server if this command line runs a sweep on several CPU cores; it imports in the background."""
    is_sweep = not arguments or arguments[0] == "run" or "=" in arguments[0] or arguments[0].startswith("--config")
    is_inline = {"executor=inline", "--cfg", "-c"} & {word.strip() for word in arguments}
    on_cpu = "devices=cpu" in arguments or has_surely_no_gpu()
    if sys.platform != "linux" or not is_sweep or is_inline or not on_cpu or num_cores() == 1:
        return
    multiprocessing.set_forkserver_preload(["lorasweep.executors.preloaded"])
    # Signals to the whole group are for the driver: it asks workers for checkpoints, and they end with the fork server.
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with marked(new_mark()):
            forkserver.ensure_running()
    except OSError:  # no socket can be made, for example if the path of TMPDIR is too long: workers are spawned
        return
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    _environment.update(_inherited())


def is_usable() -> bool:
    """Return whether a forked process would have this process's environment, which libraries read when imported."""
    return bool(_environment) and _environment == _inherited()


def context(*, is_gpu: bool) -> BaseContext:
    """Return the start method of a worker's process."""
    return multiprocessing.get_context("spawn" if is_gpu or not is_usable() else "forkserver")


def _inherited() -> dict[str, str]:
    """Return the environment without what workers do not read: the driver sets MLflow's variables."""
    return {name: value for name, value in os.environ.items() if name != NAME and not name.startswith("MLFLOW_")}
