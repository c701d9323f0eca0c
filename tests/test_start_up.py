"""A sweep starts without imports that it does not need, and CPU workers are forked from a process that has imported."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lorasweep.data.cache import remembered
from lorasweep.devices import cuda_visible
from lorasweep.executors import fork_server
from lorasweep.planning.make import make_plan
from tests.settings import composed

ROOT = Path(__file__).resolve().parent.parent
HEAVY = {"torch", "transformers", "tokenizers", "datasets", "peft", "optuna", "mlflow"}
PLAN = f"""
import sys
from lorasweep.cli import main
assert main(["plan", "+sweep=rank_alpha"]) == 0
print("imported:", *sorted({HEAVY!r} & set(sys.modules)))
"""
FORKED = """
import os, psutil
from lorasweep.core.messages import WorkerSettings
from lorasweep.executors import fork_server
from lorasweep.executors.local import LocalExecutor
fork_server.start_for(["lora.r=4"])
first = LocalExecutor(WorkerSettings(device="cpu", num_slots=1))
assert first.submit([]).result(60) == []
os.environ["HF_HOME"] = "elsewhere"
second = LocalExecutor(WorkerSettings(device="cpu", num_slots=1))
assert second.submit([]).result(60) == []
forked, spawned = psutil.Process(first.pid), psutil.Process(second.pid)
print(forked.parent().ppid() == os.getpid(), spawned.ppid() == os.getpid())
first.close()
second.close()
assert not forked.is_running() and not spawned.is_running()
"""


def run(code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)


@pytest.mark.slow
@pytest.mark.processes
def test_a_second_plan_of_a_base_imports_no_heavy_library() -> None:
    run(PLAN)
    assert run(PLAN).splitlines()[-1] == "imported:"


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has the fork server")
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores")
def test_workers_are_forked_unless_the_environment_has_changed() -> None:
    assert run(FORKED).split() == ["True", "True"]


@pytest.mark.parametrize("words", [["plan"], ["report", "runs/a"], ["--help"], ["lora.r=4", "executor=inline"]])
def test_commands_without_workers_of_their_own_start_no_fork_server(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("multiprocessing.forkserver.ensure_running", lambda: pytest.fail("it was started"))
    fork_server.start_for(words)


def test_pytorch_is_asked_without_an_import_whether_it_was_built_for_gpus() -> None:
    import torch

    assert cuda_visible.is_built_for_gpus() == (torch.version.cuda is not None or torch.version.hip is not None)


@pytest.mark.parametrize("damage", ["", "[]", '{"value": []}', "no json"])
def test_a_damaged_file_of_the_cache_is_replaced(damage: str, tmp_path: Path) -> None:
    def read(raw: dict[str, Any]) -> int:
        return int(raw["value"])

    file = tmp_path / "known.json"
    file.write_text(damage)
    assert remembered(file, lambda: 3, read, lambda value: {"value": value}) == 3
    assert remembered(file, lambda: 4, read, lambda value: {"value": value}) == 3
    assert remembered(None, lambda: 5, read, lambda value: {"value": value}) == 5


def test_a_plan_of_local_files_does_not_ask_whether_the_hub_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask() -> str:
        raise AssertionError("it asked")

    for module in ("planning.data_stats", "models.describe", "data.source"):
        monkeypatch.setattr(f"lorasweep.{module}.unreachable_note", ask)
    assert make_plan(composed("lora.r=4")).trials


def test_workers_are_spawned_if_the_fork_server_cannot_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError("AF_UNIX path too long")

    monkeypatch.setattr("multiprocessing.forkserver.ensure_running", fail)
    monkeypatch.setattr(fork_server, "num_cores", lambda: 2)
    before = signal.getsignal(signal.SIGINT)
    fork_server.start_for(["lora.r=4"])
    assert not fork_server.is_usable() and signal.getsignal(signal.SIGINT) == before


@pytest.mark.slow
@pytest.mark.processes
def test_sigterm_to_the_whole_group_saves_every_trial(in_tmp: Path) -> None:
    """As `timeout`, Slurm and systemd send it."""
    words = ["lora.r=2,4", "train.max_steps=5000", "probes=none", "tracking=none", "data.limit=64", "eval.limit=16"]
    process = subprocess.Popen(
        [sys.executable, "-m", "lorasweep", *words], cwd=in_tmp, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdout is not None
    while "starts" not in (line := process.stdout.readline()):
        assert line, "it ended"
    time.sleep(2)
    os.killpg(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 75 and "2 unfinished trials are saved" in output, output
