"""Faults of a launch: each function is called in its process before the sweep starts."""

import importlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lorasweep.core.trial import Trial


def die() -> None:
    """End this process at once, as in a power failure."""
    os.kill(os.getpid(), signal.SIGKILL)


def killed_around(target: str, when: str, nth: int = 1) -> None:
    """Kill this process before or after the n-th call of a function."""
    owner, name = owner_of(target)
    whole, calls = getattr(owner, name), [0]

    def deadly(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == nth and when == "before":
            die()
        value = whole(*args, **kwargs)
        if calls[0] == nth:
            die()
        return value

    setattr(owner, name, deadly)


def counted_statements(note: Path, last: int | None = None) -> None:
    """Count SQL statements in a file; kill this process before the statement with a given number."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    num_statements = [0]

    def count(*_: object) -> None:
        num_statements[0] += 1
        if num_statements[0] == last:
            die()
        note.write_text(str(num_statements[0]))

    event.listen(Engine, "before_cursor_execute", count)


def killed_at_moment(note: Path, last: int | None = None) -> None:
    """Count commits to databases and renames of files; kill this process just before or just after one of them."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    seen = [0]

    def moment() -> None:
        seen[0] += 1
        if seen[0] == last:
            die()
        if last is None:
            note.write_text(str(seen[0]))

    event.listen(Engine, "commit", lambda _: moment())
    owner, name = owner_of("lorasweep.core.files.Path.replace")
    whole = getattr(owner, name)

    def renamed(*args: Any) -> Any:
        moment()
        value = whole(*args)
        moment()
        return value

    setattr(owner, name, renamed)


def meeting(folder: Path, count: int) -> None:
    """Start when all launches are ready; the one that runs then waits until it may continue."""
    owner, name = owner_of("lorasweep.run.run_sweep")
    whole = getattr(owner, name)

    def together(*args: Any) -> Any:
        (folder / f"here-{os.getpid()}").touch()
        wait_for(lambda: len(list(folder.glob("here-*"))) >= count)
        return whole(*args)

    setattr(owner, name, together)
    held(folder / "go", 1)


def held(gate: Path, nth: int) -> None:
    """Let the n-th call of a worker wait until a file exists; create another file while it waits."""
    owner, name = owner_of("lorasweep.testing.FakeExecutor.submit")
    whole, calls = getattr(owner, name), [0]

    def slow(*args: Any) -> Any:
        calls[0] += 1
        if calls[0] == nth:
            gate.with_name(f"{gate.name}-waits").touch()
            wait_for(gate.exists)
        return whole(*args)

    setattr(owner, name, slow)


def jumping_clock(jumps_s: tuple[float, ...]) -> None:
    """Let the wall clock jump at every call, as when the time of a machine is set."""
    real, looks = time.time, [0]

    def jumped() -> float:
        looks[0] += 1
        return real() + jumps_s[looks[0] % len(jumps_s)]

    time.time = jumped


def wait_for(claim: Callable[[], bool]) -> None:
    """Wait until a condition holds; end when the test process has ended."""
    deadline = time.monotonic() + 60
    while not claim():
        if time.monotonic() > deadline:
            die()
        time.sleep(0.001)


def owner_of(target: str) -> tuple[Any, str]:
    """Return the module or class that a dotted name's last part belongs to."""
    path, _, name = target.rpartition(".")
    parts = path.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            owner: Any = importlib.import_module(".".join(parts[:cut]))
        except ImportError:
            continue
        for part in parts[cut:]:
            owner = getattr(owner, part)
        return owner, name
    raise LookupError(target)


def failing_with(reason: str, environment: dict[str, str]) -> None:
    """Set environment variables, and let every training step fail with a reason."""
    os.environ.update(environment)

    def fail(*_: object) -> None:
        raise RuntimeError(reason)

    if reason:
        owner, name = owner_of("lorasweep.worker.worker.train_step")
        setattr(owner, name, fail)


def odd_values(values: tuple[float, ...]) -> None:
    """Give the first trials these objectives."""
    import lorasweep.testing

    whole = lorasweep.testing.fake_objective

    def odd(trial: Trial) -> float:
        return values[trial.number] if trial.number < len(values) else whole(trial)

    lorasweep.testing.fake_objective = odd
