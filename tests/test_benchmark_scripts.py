"""The benchmarks run from the command line at the smallest sizes, and their assertions hold."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.processes]
ROOT = Path(__file__).resolve().parent.parent
TINY_SWEEP = ("data.limit=64", "eval.limit=12", "eval.rungs=1", "lora.r=4", "lora.target_modules=qv",
              "lora.lora_alpha=8", "train.learning_rate=1e-3", "train.max_steps=4")  # fmt: skip


def run(script: str, *arguments: str, out: Path) -> str:
    """Run a benchmark and return what it prints."""
    command = [sys.executable, "-m", f"benchmarks.{script}", *arguments, "--out", str(out / f"{script}.json")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=out, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_packed_step_has_the_losses_of_stock_peft(tmp_path: Path) -> None:
    assert "| mixed-k4 |" in run("step", "--case", "mixed-k4", out=tmp_path)


def test_lorasweep_and_trainer_do_the_same_work(tmp_path: Path) -> None:
    assert "do the same work" in run("sweep", "--seeds", "0", "--set", *TINY_SWEEP, out=tmp_path)


def test_a_replay_stops_the_trials_that_the_sweep_itself_stops(tmp_path: Path) -> None:
    assert "as the sweep itself" in run("pruning", "--seeds", "0", "--folder", str(tmp_path / "runs"), out=tmp_path)


def test_simulated_sweeps_give_a_table_and_figures(tmp_path: Path) -> None:
    printed = run("statistics", "--sweeps", "2", out=tmp_path)
    assert printed.strip() in (tmp_path / "statistics.md").read_text()
    assert (tmp_path / "statistics.json").is_file()
