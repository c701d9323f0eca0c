"""Kill every process that a worker started, including those with their own session and daemons.

On Linux a signal reaches a process's children or its group, but not a grandchild with its own session. So workers carry
a mark in their environment, which all of their child processes inherit; a process that clears its environment is not
found. A watcher process with its own session outlives the driver and kills all marked processes when the driver ends.
"""

import atexit
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

NAME = "LORASWEEP_MARK"
ROUNDS = 50  # passes over the process list; a process that starts during one pass is found in the next
REST_S = 0.02


@contextmanager
def marked(mark: str) -> Iterator[None]:
    """Set a mark for all processes that are started inside this context."""
    before = os.environ.get(NAME)
    os.environ[NAME] = mark
    try:
        yield
    finally:
        os.environ.pop(NAME)
        if before is not None:
            os.environ[NAME] = before


def new_mark() -> str:
    """Return a mark for one worker. The first call starts the watcher."""
    return f"{_start_watcher()}.{uuid.uuid4().hex}"


def end_marked(mark: str) -> None:
    """Kill all processes whose mark starts with `mark`, until none is left."""
    wanted = f"{NAME}={mark}".encode()
    for _ in range(ROUNDS if Path("/proc/self/environ").is_file() else 0):
        if not sum(_end(pid, wanted) for pid in _processes()):
            return
        time.sleep(REST_S)


def _processes() -> list[int]:
    return [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and int(p.name) != os.getpid()]


def _end(pid: int, wanted: bytes) -> bool:
    """Kill a process if it is marked; return whether it was. Other users' processes are never marked."""
    with suppress(OSError):
        process = os.pidfd_open(pid)  # without it, the id may belong to another process when the signal is sent
        try:
            words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            if any(word.startswith(wanted) for word in words):
                signal.pidfd_send_signal(process, signal.SIGKILL)
                return True
        finally:
            os.close(process)
    return False


@cache
def _start_watcher() -> str:
    """Start the watcher process; return the prefix of the marks of all workers of this process."""
    mark = uuid.uuid4().hex
    if sys.platform != "linux":
        return mark
    command = [sys.executable, "-I", "-S", __file__, mark]
    watcher = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True, cwd="/")
    atexit.register(_stop_watcher, watcher)
    return mark


def _stop_watcher(watcher: "subprocess.Popen[bytes]") -> None:
    """Close the watcher's pipe, as the death of this process would, and wait for the watcher."""
    assert watcher.stdin is not None
    watcher.stdin.close()
    with suppress(subprocess.TimeoutExpired):
        watcher.wait(timeout=5)


def _watch(mark: str) -> None:
    """Wait until the driver's end of the pipe is closed, which the kernel does if the driver is killed."""
    sys.stdin.buffer.read()
    end_marked(mark)


if __name__ == "__main__":
    _watch(sys.argv[1])
