"""A trial as Ray Tune runs it. A module of its own, so that actors import it rather than unpickle a copy."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from ray import tune

from benchmarks import hf_trial


@cache
def setup(job_file: str) -> hf_trial.Setup:
    """Return the actor's base, data and probe scores, made by its first trial."""
    return hf_trial.Setup(json.loads(Path(job_file).read_text()))


def train(config: dict[str, Any]) -> None:
    """Run a trial; ASHA may end it at any report."""
    made = setup(config["job"])
    trial = made.job["trials"][config["number"]]
    model = hf_trial.adapt(made, trial["lora"], trial["train"]["seed"])
    try:
        hf_trial.fit(made, model, trial["train"], made.train, report)
        report(trial["train"]["max_steps"], hf_trial.evaluate(made, model))
    finally:
        model.unload()  # a trial that ASHA ends leaves the base clean too


def report(step: int, metrics: dict[str, float]) -> None:
    """Tell Tune where the trial stands."""
    tune.report({"step": step, **metrics})
