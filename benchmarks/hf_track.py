"""The baseline's MLflow: one run per trial, in a store that was made before the sweep began."""

import logging
import time
from collections.abc import Sequence
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param


def make_store(uri: str, experiment: str) -> None:
    """Make the store and its experiment: processes that make it together crash each other."""
    logging.getLogger("mlflow").setLevel(logging.ERROR)  # it would tell of every table
    client = MlflowClient(uri)
    if client.get_experiment_by_name(experiment) is None:
        client.create_experiment(experiment)


def track(
    job: dict[str, Any], trial: dict[str, Any], metrics: dict[str, float], curve: Sequence[tuple[int, dict[str, float]]]
) -> None:
    """Log a trial's parameters, final metrics and curves."""
    client = MlflowClient(job["mlflow_uri"])
    experiment = client.get_experiment_by_name(job["experiment"])
    assert experiment is not None, job["experiment"]
    run = client.create_run(experiment.experiment_id, run_name=f"trial-{trial['number']:03d}").info.run_id
    now_ms = int(time.time() * 1000)
    points = [*curve, (max(job["rungs"]), metrics)]
    client.log_batch(
        run,
        metrics=[Metric(name, value, now_ms, step) for step, values in points for name, value in values.items()],
        params=[Param(name, str(value)) for name, value in {**trial["lora"], **trial["train"]}.items()],
    )
    client.set_terminated(run)
