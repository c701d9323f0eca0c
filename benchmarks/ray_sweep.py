"""The baseline with pruning: Ray Tune with ASHA over the same Trainer + PEFT trial. Started by `sweep.py`.

    pip install "ray[tune]"
    python -m benchmarks.ray_sweep JOB.json AT_ONCE

Actors are reused for several trials; each keeps its imports, base, data and the base's probe scores.
"""

import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune.schedulers import ASHAScheduler

from benchmarks import hf_trial
from benchmarks.output import usable_cores


@cache
def setup(job_file: str) -> hf_trial.Setup:
    """Return the actor's base, data and probe scores; the first trial loads them."""
    return hf_trial.Setup(json.loads(Path(job_file).read_text()))


def train(config: dict[str, Any]) -> None:
    """Run a trial; ASHA may end it at any report."""
    made = setup(config["job"])
    trial = made.job["trials"][config["number"]]
    model = hf_trial.adapt(made, trial)
    try:
        hf_trial.fit(made, model, trial, made.train, report)
        report(trial["train"]["max_steps"], hf_trial.evaluate(made, model))
    finally:
        model.unload()  # also if ASHA ends the trial


def report(step: int, metrics: dict[str, float]) -> None:
    tune.report({"step": step, **metrics})


def main() -> None:
    """Run every trial of the job and write the last report of each."""
    job_file, at_once = Path(sys.argv[1]).absolute(), int(sys.argv[2])
    job = json.loads(job_file.read_text())
    last = max(job["rungs"])
    ray.init(num_cpus=usable_cores(), include_dashboard=False, log_to_driver=False)
    log = MLflowLoggerCallback(tracking_uri=job["mlflow_uri"], experiment_name=job["experiment"])
    tuner = tune.Tuner(
        # Ray gives an actor as many threads as CPUs.
        tune.with_resources(train, {"cpu": max(1, usable_cores() // at_once)}),
        param_space={"job": str(job_file), "number": tune.grid_search(list(range(len(job["trials"]))))},
        tune_config=tune.TuneConfig(
            metric=job["objective"], mode="min" if job["objective"] == "loss" else "max", reuse_actors=True,
            scheduler=ASHAScheduler(time_attr="step", max_t=last, grace_period=min(job["rungs"])),
            max_concurrent_trials=at_once,
        ),
        run_config=tune.RunConfig(name="ray", storage_path=str(job_file.parent), verbose=0, callbacks=[log]),
    )  # fmt: skip
    found = [result.metrics for result in tuner.fit() if not result.error]
    trials = [{"number": m["config"]["number"], "step": m["step"], "metrics": {"accuracy": m.get("accuracy")},
               "state": "complete" if m["step"] >= last else "pruned"} for m in found]  # fmt: skip
    (job_file.parent / "ray.json").write_text(json.dumps(trials))


if __name__ == "__main__":
    from benchmarks.ray_sweep import main as importable_main  # actors import `train` rather than unpickle a copy

    importable_main()
