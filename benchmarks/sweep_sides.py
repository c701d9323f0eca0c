"""Run each side of the comparison as a user would: whole processes, timed from the first start to the last end.

Every run gets an empty folder, an empty cache and an MLflow store that is there already.
"""

import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import usable_cores
from benchmarks.sweep_job import Job, export

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Side:
    """How a side runs its trials; `threads` 0 means one per core. `args` are a side's own settings."""

    title: str
    run: Callable[["Side", Job, Path, Sequence[str]], list[dict[str, Any]]]
    at_once: int = 1
    threads: int = 0


def lorasweep_side(side: Side, job: Job, folder: Path, args: Sequence[str]) -> list[dict[str, Any]]:
    """Run `python -m lorasweep` and return what its ledger says of every trial."""
    words = ["-m", "lorasweep", *_merged(job.overrides, args), "tracking.experiment=benchmark"]
    _python(words, folder, side.threads)
    files = sorted(folder.glob("runs/*/trials/*/result.json"))
    return [_ledger_trial(json.loads(file.read_text())) for file in files]


def _merged(overrides: Sequence[str], args: Sequence[str]) -> list[str]:
    """Let a side's own overrides replace the job's."""
    pairs = dict(override.split("=", 1) for override in (*overrides, *args))
    return [f"{key}={value}" for key, value in pairs.items()]


def _ledger_trial(raw: Mapping[str, Any]) -> dict[str, Any]:
    probes = {f"probe/{p['name']}": p["after"] for p in raw["probes"]}
    metrics = {**{k: v for k, v in raw["metrics"].items() if not k.startswith("probe/")}, **probes}
    step = raw["history"][-1]["step"] if raw["history"] else 0
    number = {"number": raw["number"], "state": raw["state"], "step": step, "fingerprint": raw["fingerprint"]}
    return {**number, "metrics": metrics, "scores": raw["scores"], "params": raw["params"]}


def process_per_trial(side: Side, job: Job, folder: Path, args: Sequence[str]) -> list[dict[str, Any]]:
    """Start a process for every trial, `at_once` of them side by side."""
    numbers = range(len(job.specs))

    def trial(number: int) -> None:
        _python(["-m", "benchmarks.hf_trial", "job.json", "--trials", str(number)], folder, side.threads)

    with ThreadPoolExecutor(side.at_once) as pool:
        list(pool.map(trial, numbers))
    return _hf_trials(folder, numbers)


def one_process(side: Side, job: Job, folder: Path, args: Sequence[str]) -> list[dict[str, Any]]:
    """Run every trial in one process, one after another."""
    numbers = range(len(job.specs))
    _python(["-m", "benchmarks.hf_trial", "job.json", "--trials", *map(str, numbers)], folder, side.threads)
    return _hf_trials(folder, numbers)


def _hf_trials(folder: Path, numbers: Sequence[int]) -> list[dict[str, Any]]:
    return [json.loads((folder / f"trial-{number}.json").read_text()) for number in numbers]


def ray_side(side: Side, job: Job, folder: Path, args: Sequence[str]) -> list[dict[str, Any]]:
    """Run the trials under Ray Tune."""
    words = ["-m", "benchmarks.ray_sweep", "job.json", "--at-once", str(side.at_once), *args]
    _python(words, folder, side.threads)
    trials: list[dict[str, Any]] = json.loads((folder / "ray.json").read_text())
    return trials


# On a small base two processes of one thread each use two cores better than one process of two threads.
SIDES = {
    "L": Side("lorasweep, every trial to its end", lorasweep_side),
    "P": Side("lorasweep with pruning", lorasweep_side),
    "a": Side("Trainer + PEFT, a process per trial", process_per_trial),
    "a1": Side("the same with one thread", process_per_trial, threads=1),
    "a2": Side("the same, two at once with one thread each", process_per_trial, at_once=2, threads=1),
    "b": Side("Trainer + PEFT, all trials in one process", one_process),
    "b1": Side("the same with one thread", one_process, threads=1),
    "c": Side("Ray Tune, ASHA, Trainer + PEFT, two at once", ray_side, at_once=2, threads=1),
    "c1": Side("the same, one at a time with every core", ray_side),
}


def time_side(name: str, job: Job, folder: Path, args: Sequence[str] = ()) -> dict[str, Any]:
    """Run a side once in an empty folder and return its wall time and trials. What is common is made before."""
    shutil.rmtree(folder, ignore_errors=True)
    export(job, folder)
    make_store(folder)
    started = time.perf_counter()
    trials = SIDES[name].run(SIDES[name], job, folder, args)
    wall_s = time.perf_counter() - started
    assert len(trials) == len(job.specs), f"{name}: {len(trials)} of {len(job.specs)} trials left a result: {folder}"
    return {"wall_s": wall_s, "trials": _finite(trials)}


def make_store(folder: Path) -> None:
    """Make the MLflow store outside the timing, for every side alike."""
    from benchmarks import hf_track

    hf_track.make_store(json.loads((folder / "job.json").read_text())["mlflow_uri"], "benchmark")


def _python(words: Sequence[str], folder: Path, threads: int) -> None:
    with (folder / "output.log").open("a") as log:
        done = subprocess.run(
            [sys.executable, *words], cwd=folder, env=_environment(folder, threads), stdout=log, stderr=log
        )
    if done.returncode:
        tail = "\n".join((folder / "output.log").read_text().splitlines()[-30:])
        raise SystemExit(f"{' '.join(words)} ended with {done.returncode}; {folder}/output.log ends:\n{tail}")


def _environment(folder: Path, threads: int) -> dict[str, str]:
    """Return what all sides have in common; threads that sleep while they wait help the baseline as much as us."""
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_WAIT_POLICY": "PASSIVE",
        "OMP_NUM_THREADS": str(threads or usable_cores()),
        "TOKENIZERS_PARALLELISM": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "HF_HUB_OFFLINE": "1",
        "LORASWEEP_CACHE": str(folder / "cache"),
    }


def _finite(value: Any) -> Any:
    """JSON knows no NaN: a diverged trial's loss becomes null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    return [_finite(part) for part in value] if isinstance(value, list | tuple) else value
