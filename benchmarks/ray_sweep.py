"""The baseline with pruning: Ray Tune with ASHA over the same Trainer + PEFT trial.

    pip install "ray[tune]"
    python -m benchmarks.ray_sweep JOB.json --at-once 2

Actors are used again from trial to trial, and each keeps its imports, base, data and the base's probe scores.
"""

import argparse
import json
from pathlib import Path
from typing import Any

try:
    import ray
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback
    from ray.tune.schedulers import ASHAScheduler
except ImportError as error:
    raise SystemExit(f'{error}: the Ray side needs Ray Tune: pip install "ray[tune]"') from error

from benchmarks.machine import usable_cores
from benchmarks.ray_trial import train

METRICS = ("accuracy", "loss", "rougeL", "forgetting")


def sweep(job_file: Path, at_once: int, reduction_factor: int) -> list[dict[str, Any]]:
    """Run every trial of the job and return what each reported last."""
    job = json.loads(job_file.read_text())
    ray.init(num_cpus=usable_cores(), include_dashboard=False, log_to_driver=False)
    tuner = tune.Tuner(
        # Ray gives an actor as many threads as CPUs.
        tune.with_resources(train, {"cpu": max(1, usable_cores() // at_once)}),
        param_space={
            "job": str(job_file.absolute()),
            "number": tune.grid_search(list(range(len(job["trials"])))),
        },
        tune_config=tune.TuneConfig(
            metric=job["objective"],
            mode="min" if job["objective"] == "loss" else "max",
            scheduler=scheduler(job["rungs"], reduction_factor),
            max_concurrent_trials=at_once,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="ray",
            storage_path=str(job_file.absolute().parent),
            verbose=0,
            callbacks=[MLflowLoggerCallback(tracking_uri=job["mlflow_uri"], experiment_name=job["experiment"])],
        ),
    )
    return [_trial(result, max(job["rungs"])) for result in tuner.fit()]


def scheduler(rungs: list[int], reduction_factor: int) -> ASHAScheduler:
    """Return ASHA with its first rung where lorasweep has its own."""
    return ASHAScheduler(time_attr="step", max_t=max(rungs), grace_period=min(rungs), reduction_factor=reduction_factor)


def _trial(result: Any, last: int) -> dict[str, Any]:
    if result.error:
        raise result.error
    found = result.metrics
    metrics = {k: v for k, v in found.items() if k in METRICS or k.startswith("probe/")}
    state = "complete" if found["step"] >= last else "pruned"
    return {"number": found["config"]["number"], "state": state, "step": found["step"], "metrics": metrics}


def main() -> None:
    """Run the sweep and write its trials beside the job."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job", type=Path)
    parser.add_argument("--at-once", type=int, default=2)
    parser.add_argument("--reduction-factor", type=int, default=4, help="ASHA keeps one in so many; 4 is Ray's default")
    arguments = parser.parse_args()
    trials = sweep(arguments.job, arguments.at_once, arguments.reduction_factor)
    (arguments.job.parent / "ray.json").write_text(json.dumps(sorted(trials, key=lambda trial: trial["number"])))


if __name__ == "__main__":
    main()
