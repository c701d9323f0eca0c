"""Leave nothing behind: end whatever a worker started, sessions and daemons of their own included.

On Linux a signal reaches a process's children or its group, and neither holds a grandchild with a session of its own.
So workers carry a mark in their environment, which all that they start inherits; a process that throws its environment
away is not found. When the driver is gone, however it went, a small process of its own session ends all that is marked.
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
ROUNDS = 50  # looks at the list of processes; one that is being started while we look is seen in the next
REST_S = 0.02


@contextmanager
def marked(mark: str) -> Iterator[None]:
    """Have the processes that are started inside carry a mark."""
    before = os.environ.get(NAME)
    os.environ[NAME] = mark
    try:
        yield
    finally:
        os.environ.pop(NAME)
        if before is not None:
            os.environ[NAME] = before


def new_mark() -> str:
    """Return a mark for one worker; from the first on, what is marked goes when this process does."""
    return f"{_start_watcher()}.{uuid.uuid4().hex}"


def end_marked(mark: str) -> None:
    """End every process whose mark begins so, until none is left."""
    wanted = f"{NAME}={mark}".encode()
    for _ in range(ROUNDS if Path("/proc/self/environ").is_file() else 0):
        if not sum(_end(pid, wanted) for pid in _processes()):
            return
        time.sleep(REST_S)


def _processes() -> list[int]:
    return [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and int(p.name) != os.getpid()]


def _end(pid: int, wanted: bytes) -> bool:
    """End a process if it is marked; return whether it was. Others' processes cannot be read, and are not ours."""
    with suppress(OSError):
        process = os.pidfd_open(pid)  # between the look and the signal its number may become another's
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
    """Start the process that outlives this one; return the mark of all of this process's workers."""
    mark = uuid.uuid4().hex
    if sys.platform != "linux":
        return mark
    command = [sys.executable, "-I", "-S", __file__, mark]
    watcher = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True, cwd="/")
    atexit.register(_stop_watcher, watcher)
    return mark


def _stop_watcher(watcher: "subprocess.Popen[bytes]") -> None:
    """Close the pipe, as this process's death would, and see the watcher through."""
    assert watcher.stdin is not None
    watcher.stdin.close()
    with suppress(subprocess.TimeoutExpired):
        watcher.wait(timeout=5)


def _watch(mark: str) -> None:
    """Wait for the driver's end of the pipe to be closed, which the kernel does for one that was killed."""
    sys.stdin.buffer.read()
    end_marked(mark)


if __name__ == "__main__":
    _watch(sys.argv[1])
