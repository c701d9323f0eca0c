"""Sweeps for fault tests, and functions that inspect them."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import psutil

from lorasweep.core.messages import CHECKPOINT, Note, SweepEvent
from lorasweep.driver.driver import Driver
from lorasweep.driver.ledger import Ledger
from lorasweep.planning.plan import Plan
from lorasweep.testing import fake_driver
from tests.test_run import QUICK, board

REPO = Path(__file__).resolve().parent.parent.parent
SMALL_DATA = ("data.train=demo:intents/train.csv[:40]", "data.validation=demo:intents/validation.csv[:12]")
# Real training, long enough to be interrupted; and trials that end at once, to test only the driver.
LONG = (*QUICK, "lora.r=2,4", "study.sampler=grid", "train.max_steps=40", "eval.rungs=8", "eval.rung_limit=4")
FAKE = (*SMALL_DATA, "train.learning_rate=tag(log,interval(1e-5,1e-1))", "study.sampler=random", "study.slots=2",
        "data.test=null", "probes=none")  # fmt: skip


def until(claim: Callable[[], Any], timeout_s: float = 120.0) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + timeout_s
    while not claim():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


def number_of(name: str, default: int) -> int:
    """Return how often a fault is injected: a few times by default, more often in a longer run."""
    return int(os.environ.get(name, str(default)))


def objectives(folder: Path) -> dict[int, Any]:
    """Return state and objective by trial."""
    return {t["trial"]: (t["state"], t["objective"]) for t in board(folder)["trials"]}


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of live trials."""
    return list(folder.glob(f"runs/*/trials/*/{CHECKPOINT}"))


def children(pid: int, word: str = "") -> list[psutil.Process]:
    """Return a process's children with a word in their command line."""
    try:
        return [p for p in psutil.Process(pid).children() if word in " ".join(p.cmdline())]
    except psutil.NoSuchProcess:
        return []


def workers(pid: int) -> list[psutil.Process]:
    """Return a driver's worker processes."""
    forked = [p for server in children(pid, "forkserver") for p in children(server.pid)]
    return [*children(pid, "spawn_main"), *forked]


def is_alive(pid: int) -> bool:
    """Return whether a process still runs; a zombie does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Notes:
    """A listener that keeps the text of notes."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def handle(self, event: SweepEvent) -> None:
        if isinstance(event, Note):
            self.texts.append(event.text)


def driver_of(plan: Plan, folder: Path, notes: Notes, **settings: Any) -> Driver:
    """Return a driver over fake workers, in this process."""
    from dataclasses import replace

    study = replace(plan.config.study, **settings)
    return fake_driver(replace(plan, config=replace(plan.config, study=study)), Ledger(folder), notes)


def results(folder: Path) -> dict[int, dict[str, Any]]:
    """Return every result below a folder's only run."""
    found = [json.loads(file.read_text()) for file in sorted(folder.glob("runs/*/trials/*/result.json"))]
    return {r["number"]: r for r in found}


def audit(folder: Path, num_trials: int, store: Path | None = None) -> None:
    """Check that every result has exactly one complete trial and one finished run with equal values."""
    values = {number: r["objective"] for number, r in results(folder).items()}
    assert len(values) == num_trials and None not in values.values()
    (study,) = folder.glob("runs/*/study.db")
    trials = optuna.load_study(study_name="sweep", storage=f"sqlite:///{study}").get_trials(deepcopy=False)
    assert {t.number: t.value for t in trials if t.state.name == "COMPLETE"} == values
    assert {t.state.name for t in trials} == {"COMPLETE"}  # a draw that was interrupted by a kill is completed
    runs = tracked(folder, store=store)
    found = [
        (r["name"].split()[0], r["objective"]) for r in runs
    ]  # after its number, the name of a run has its settings
    assert sorted(found) == sorted((f"trial-{n:03d}", v) for n, v in values.items())
    assert {r["status"] for r in runs} == {"FINISHED"}


def tracked(folder: Path, kind: str = "trial", store: Path | None = None) -> list[dict[str, Any]]:
    """Return MLflow's runs of the trials, or of the sweeps, in a folder."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{store or folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("lorasweep")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], f"tags.`lorasweep.kind` = '{kind}'", max_results=1000)
    return [
        {"name": r.info.run_name, "status": r.info.status, "objective": r.data.metrics.get("accuracy"),
         "start": r.info.start_time, "end": r.info.end_time}
        for r in runs if r.data.tags["lorasweep.folder"].startswith(f"{folder.resolve()}/")
    ]  # fmt: skip
