"""Say a sweep once, in lorasweep's own words, and hand the same job to every side.

lorasweep plans it; the baseline gets the planned trials and the rows of every split as plain JSON, which it reads and
tokenises itself.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lorasweep.cli import data_dir
from lorasweep.config.compose import compose
from lorasweep.core.rungs import rungs_of
from lorasweep.core.spec import LoraSpec, TrainSpec, TrialSpec, digest
from lorasweep.data.formats import Example
from lorasweep.data.splits import read_source, read_splits
from lorasweep.models.info import model_path
from lorasweep.planning.make import make_plan

# A real grid holds rates that teach nothing and rates that destroy: 4 x 2 x 2 x 2 = 32 trials. A smaller sweep leaves
# axes out, the last first, at the value after which they are named here.
AXES = {
    "train.learning_rate": ("4e-3", "3e-4", "1e-3", "3e-2"),
    "lora.r": ("8", "32"),
    "lora.target_modules": ("qv", "all-linear"),
    "lora.lora_alpha": ("16", "64"),
}
SIZES = (1, 2, 4, 8, 16, 32)
FIXED = {
    "sweep.name": "benchmark",
    "study.sampler": "grid",
    "study.pruner": "none",
    "eval.metrics": "[rougeL]",
}


@dataclass(frozen=True, slots=True)
class Job:
    """A sweep: `overrides` for lorasweep's command line, and the trials that they mean."""

    overrides: tuple[str, ...]
    specs: tuple[TrialSpec, ...]
    params: tuple[dict[str, Any], ...]

    @property
    def key(self) -> str:
        """Name the work, whatever the seed, so that timings of the same work are compared."""
        return digest([replace(spec, train=replace(spec.train, seed=0)).fingerprint for spec in self.specs])


def make_job(axes: Mapping[str, str], seed: int, given: Sequence[str]) -> Job:
    """Plan the sweep over these axes; `given` are the user's own overrides."""
    settings = {**FIXED, **_pairs(given), **axes, "train.seed": str(seed)}
    overrides = tuple(f"{key}={value}" for key, value in settings.items())
    raw, _ = compose(overrides, data_dir("conf"), data_dir("sweeps"))
    assert raw is not None, overrides
    plan = make_plan(raw)
    specs = tuple(trial.spec for trial in plan.trials)
    _check(specs)
    return Job(overrides=overrides, specs=specs, params=tuple(dict(trial.params) for trial in plan.trials))


def axes_of(num_trials: int, given: Sequence[str] = ()) -> dict[str, str]:
    """Return the axes of a sweep of this size; what the user gives replaces an axis."""
    assert num_trials in SIZES, f"{num_trials} trials: choose one of {SIZES}"
    settings = {}
    for key, values in AXES.items():
        kept = values[: min(len(values), num_trials)]
        num_trials //= len(kept)
        settings[key] = ",".join(kept)
    return {key: text for key, text in settings.items() if key not in _pairs(given)}


def _pairs(overrides: Iterable[str]) -> dict[str, str]:
    return dict(override.split("=", 1) for override in overrides)


def _check(specs: Sequence[TrialSpec]) -> None:
    """Refuse what the baseline cannot do in the same way."""
    first = specs[0]
    assert all((s.model, s.data, s.eval) == (first.model, first.data, first.eval) for s in specs), "one base and data"
    assert first.model.precision == "none" and first.model.dtype in ("fp32", "bf16"), first.model
    assert first.data.format != "messages", "the baseline knows no chats"
    assert set(first.eval.all_metrics) <= {"accuracy", "loss", "rougeL"}, first.eval.all_metrics
    assert all(s.train.optim == "adamw" for s in specs)


def export(job: Job, folder: Path) -> Path:
    """Write the baseline's job below `folder` and return its file."""
    spec = job.specs[0]
    folder.mkdir(parents=True, exist_ok=True)
    splits = read_splits(spec.data)
    _write_rows(folder / "train.jsonl", splits.train, with_options=False)
    _write_rows(folder / "validation.jsonl", splits.validation[: spec.eval.limit], with_options=True)
    for probe in spec.eval.probes:
        _write_rows(folder / f"{probe.name}.jsonl", read_source(probe.path, probe)[0][: probe.limit], with_options=True)
    num_steps = {s.train.num_steps(len(splits.train)) for s in job.specs}
    assert len(num_steps) == 1, f"trials of different lengths: {sorted(num_steps)}"
    file = folder / "job.json"
    file.write_text(json.dumps(_content(job, folder, num_steps.pop()), indent=1))
    return file


def _content(job: Job, folder: Path, num_steps: int) -> dict[str, Any]:
    spec = job.specs[0]
    return {
        "folder": str(folder),
        "model": model_path(spec.model.id),
        "dtype": spec.model.dtype,
        "max_length": spec.data.max_length,
        "objective": spec.eval.objective,
        "rungs": rungs_of(spec.eval, num_steps),
        "writes": "rougeL" in spec.eval.all_metrics,
        "max_new_tokens": spec.eval.max_new_tokens,
        "probes": [{"name": p.name, "metric": p.metric, "max_length": p.max_length} for p in spec.eval.probes],
        "base_scores": str(folder / "base_scores.json"),
        "mlflow_uri": f"sqlite:///{(folder / 'mlflow.db').as_posix()}",
        "experiment": "benchmark",
        "trials": [
            {"number": n, "lora": _lora(s.lora), "train": _train(s.train, num_steps)} for n, s in enumerate(job.specs)
        ],
    }


def _lora(spec: LoraSpec) -> dict[str, Any]:
    return {**asdict(spec), "target_modules": list(spec.target_modules)}


def _train(spec: TrainSpec, num_steps: int) -> dict[str, Any]:
    """Return `TrainingArguments`; names are the same on both sides."""
    same: Mapping[str, Any] = {k: v for k, v in asdict(spec).items() if k not in ("optim", "activation_checkpointing")}
    return {**same, "max_steps": num_steps}


def _write_rows(file: Path, examples: Sequence[Example], *, with_options: bool) -> None:
    rows = [
        {"prompt": e.prompt, "completion": e.completion, "options": list(e.options) if with_options else []}
        for e in examples
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
