"""How long does a whole sweep take, compared with usual tools? 32 trials with training, scores, probes and MLflow.

    python -m benchmarks.sweep [--sides L P --seeds 5]
    python -m benchmarks.sweep --set model.id=path data=classification data.train=train.csv train.max_steps=160

One run of every side takes 11 minutes on two cores. Sides are whole processes, interleaved by seed, in an order that
rotates with the seed. Every run is recorded when it ends, and a later call continues: after a change in the code, set
another `--out`. Before the first run `sweep_check.py` shows that both sides do the same work; `--seeds 0` runs only
this check. Only lorasweep computes a test score and a leaderboard, within its time.
In three minutes: `--sides L a2 --set train.learning_rate=1e-3 lora.r=8 lora.lora_alpha=16 train.max_steps=4`.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from mlflow import MlflowClient

from benchmarks.output import command_line, machine, markdown, write
from benchmarks.sweep_check import check
from benchmarks.sweep_job import Job, export, make_job, pairs
from lorasweep.devices.cpu import num_cores
from lorasweep.driver.stored import spec_from_json

ROOT = Path(__file__).resolve().parent.parent
Run = Mapping[str, Any]
PRUNED = ("study.pruner=rules", "study.reduction_factor=3", "eval.rungs=3", "eval.rung_factor=4", "eval.rung_limit=64")
EACH = ("a process each",)


@dataclass(frozen=True, slots=True)
class Side:
    """A program to compare; `threads` 0 means one per core."""

    title: str
    run: Callable[["Side", Job, Path], list[dict[str, Any]]]
    threads: int = 0
    args: tuple[str, ...] = ()

    def python(self, folder: Path, *words: str) -> None:
        """Run a module with an empty cache until it ends; threads that sleep while they wait make all sides faster."""
        environment = {
            **os.environ, "PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "PASSIVE",
            "OMP_NUM_THREADS": str(self.threads or num_cores()), "TOKENIZERS_PARALLELISM": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true", "HF_HUB_OFFLINE": "1", "LORASWEEP_CACHE": str(folder / "cache"),
        }  # fmt: skip
        with (folder / "output.log").open("a") as log:
            done = subprocess.run([sys.executable, "-m", *words], cwd=folder, env=environment, stdout=log, stderr=log)
        assert not done.returncode, (
            f"{words} ended with {done.returncode}: {(folder / 'output.log').read_text()[-3000:]}"
        )


def lorasweep(side: Side, job: Job, folder: Path) -> list[dict[str, Any]]:
    """Run `python -m lorasweep` and return its ledger's result of every trial."""
    words = [f"{key}={value}" for key, value in pairs([*job.overrides, *side.args]).items()]
    side.python(folder, "lorasweep", *words, "tracking.experiment=benchmark")
    trials = [json.loads(file.read_text()) for file in sorted(folder.glob("runs/*/trials/*/result.json"))]
    trials = [{**t, "fingerprint": spec_from_json(t["spec"]).fingerprint} for t in trials]
    steps = {t["number"]: t["history"][-1]["step"] if t["history"] else 0 for t in trials}
    names = ("number", "state", "fingerprint", "metrics", "params")
    return [{"step": steps[t["number"]], **{name: t[name] for name in names}} for t in trials]


def trainer(side: Side, job: Job, folder: Path) -> list[dict[str, Any]]:
    """Run every trial with `Trainer`: in one process, or in one process per trial, two at once."""
    numbers = [str(number) for number in range(len(job.specs))]
    groups = [[number] for number in numbers] if side.args == EACH else [numbers]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda group: side.python(folder, "benchmarks.hf_trial", "job.json", *group), groups))
    return [json.loads((folder / f"trial-{number}.json").read_text()) for number in numbers]


# On a small base, two processes with one thread each are faster than one process with two threads.
SIDES = {
    "L": Side("lorasweep, every trial to its end", lorasweep),
    "P": Side("lorasweep, poor trials stopped early", lorasweep, args=PRUNED),
    "a2": Side("Trainer + PEFT, a process per trial, two at once with one thread each", trainer, 1, EACH),
    "b1": Side("Trainer + PEFT, all trials in one process, one thread", trainer, 1),
}


def time_side(side: Side, job: Job, folder: Path) -> dict[str, Any]:
    """Run a side in an empty folder with an existing MLflow store; return its wall time and trials."""
    uri = json.loads(export(job, folder).read_text())["mlflow_uri"]
    MlflowClient(uri).create_experiment("benchmark")  # processes that create a store at the same time crash
    started = time.perf_counter()
    trials = side.run(side, job, folder)
    wall_s = time.perf_counter() - started
    assert len(trials) == len(job.specs), f"{len(trials)} of {len(job.specs)} trials left a result"
    return {"wall_s": wall_s, "trials": trials}


def table(runs: Sequence[Run]) -> list[dict[str, object]]:
    """Return a row for each side."""
    rows: list[dict[str, object]] = []
    full = {run["seed"]: winner(run)["fingerprint"] for run in runs if run["side"] == "L"}
    for name, side in SIDES.items():
        own = [run for run in runs if run["side"] == name]
        if not own:
            continue
        times, steps = [run["wall_s"] for run in own], [t["step"] for run in own for t in run["trials"] if "step" in t]
        kept = [run for run in own if winner(run).get("fingerprint", "") == full.get(run["seed"])]
        rows.append({
            "side": side.title, "seeds": len(own), "median s": median(times), "least": min(times), "most": max(times),
            "share of steps": sum(steps) / max(steps) / len(steps) if steps else 1.0, "winner of L": len(kept),
        })  # fmt: skip
    return rows


def winner(run: Run) -> Mapping[str, Any]:
    """Return the complete trial with the best accuracy, of several the one with the lowest loss."""
    complete = [t for t in run["trials"] if t.get("state") == "complete" and t["metrics"].get("loss") is not None]
    return min(complete, key=lambda t: (-(t["metrics"].get("accuracy") or 0.0), t["metrics"]["loss"]), default={})


def main() -> None:
    parser = command_line(__doc__, __file__)
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=list(SIDES))
    parser.add_argument("--seeds", type=int, default=1, help="seeds 0, 1, ... of every side")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="lorasweep settings")
    args = parser.parse_args()
    given = pairs(args.set)
    key = make_job(given, 0).key
    runs: list[dict[str, Any]] = json.loads(args.out.read_text())["runs"] if args.out.is_file() else []
    with tempfile.TemporaryDirectory(prefix="sweep-") as folder:
        if not args.seeds or not any(run["key"] == key for run in runs):
            print("both sides do the same work:", check(Path(folder) / "check", given), flush=True)
        for seed in range(args.seeds):
            turn = seed % len(args.sides)
            for name in [*args.sides[turn:], *args.sides[:turn]]:
                if any((run["key"], run["seed"], run["side"]) == (key, seed, name) for run in runs):
                    continue
                found = time_side(SIDES[name], make_job(given, seed), Path(folder) / f"{name}-{seed}")
                print(f"seed {seed}, side {name}: {found['wall_s']:.1f} s", flush=True)
                facts = {"overrides": args.set, "machine": machine()}
                runs.append({"key": key, "seed": seed, "side": name, **facts, **found})
                write(args.out, {"sides": table([run for run in runs if run["key"] == key])}, runs=runs)
    if rows := table([run for run in runs if run["key"] == key]):
        print(markdown(rows))


if __name__ == "__main__":
    main()
