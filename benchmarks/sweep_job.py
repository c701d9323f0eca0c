"""A sweep as settings for lorasweep, and as JSON for the baselines, which read and tokenise the data themselves."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lorasweep.adapters.methods.table import method_of
from lorasweep.config.compose import compose
from lorasweep.config.folders import data_dir
from lorasweep.core.rungs import rungs_of
from lorasweep.core.spec import TrialSpec, digest
from lorasweep.data.formats import Example
from lorasweep.data.splits import read_source, read_splits
from lorasweep.models.shape import model_path
from lorasweep.planning.make import make_plan

SETTINGS = {
    "sweep.name": "benchmark",
    "study.sampler": "grid",
    "study.pruner": "none",
    "eval.metrics": "[rougeL]",
    # As in a real grid, some learning rates are too low and some too high: 4 x 2 x 2 x 2 = 32 trials.
    "train.learning_rate": "4e-3,3e-4,1e-3,3e-2",
    "lora.r": "8,32",
    "lora.target_modules": "qv,all-linear",
    "lora.lora_alpha": "16,64",
}


@dataclass(frozen=True, slots=True)
class Job:
    """A sweep: `overrides` for lorasweep's command line, and its trials."""

    overrides: tuple[str, ...]
    specs: tuple[TrialSpec, ...]

    @property
    def key(self) -> str:
        """Return a digest of the work without the seed, so that only timings of the same work are compared."""
        return digest([replace(spec, train=replace(spec.train, seed=0)).fingerprint for spec in self.specs])


def pairs(overrides: Sequence[str]) -> dict[str, str]:
    return dict(override.split("=", 1) for override in overrides)


def make_job(given: Mapping[str, str], seed: int) -> Job:
    """Plan the sweep; `given` replaces or adds settings.

    Raises:
        AssertionError: the baselines do not support a setting.
    """
    settings = {**SETTINGS, **given, "train.seed": str(seed)}
    overrides = tuple(f"{key}={value}" for key, value in settings.items())
    raw, _ = compose(overrides, data_dir("conf"), data_dir("sweeps"))
    assert raw is not None, overrides
    plan = make_plan(raw)
    first, *rest = specs = tuple(trial.spec for trial in plan.trials)
    assert all((s.model, s.data, s.eval) == (first.model, first.data, first.eval) for s in rest), "one base and data"
    assert first.model.precision == "none" and first.model.dtype in ("fp32", "bf16"), first.model
    assert first.data.format != "messages", "the baseline knows no chats"
    assert set(first.eval.all_metrics) <= {"accuracy", "loss", "rougeL"}, first.eval.all_metrics
    assert all(probe.metric == "accuracy" for probe in first.eval.probes), "the baseline scores only options"
    assert all(s.train.optim == "adamw" for s in specs)
    return Job(overrides, specs)


def export(job: Job, folder: Path) -> Path:
    """Write the baselines' job and rows below `folder` and return the file of the job."""
    spec = job.specs[0]
    folder.mkdir(parents=True, exist_ok=True)
    splits = read_splits(spec.data)
    _write_rows(folder / "train.jsonl", splits.train, with_options=False)
    _write_rows(folder / "validation.jsonl", splits.validation[: spec.eval.limit], with_options=True)
    for probe in spec.eval.probes:
        _write_rows(folder / f"{probe.name}.jsonl", read_source(probe.path, probe)[0][: probe.limit], with_options=True)
    (num_steps,) = {s.train.num_steps(len(splits.train)) for s in job.specs}
    trials = []
    for number, one in enumerate(job.specs):
        lora = {**method_of(one.lora).peft_settings(one.lora), "target_modules": list(one.lora.target_modules)}
        train = {k: v for k, v in asdict(one.train).items() if k not in ("optim", "activation_checkpointing")}
        trials.append({"number": number, "lora": lora, "train": {**train, "max_steps": num_steps}})
    content: dict[str, Any] = {
        "folder": str(folder), "model": model_path(spec.model.id), "dtype": spec.model.dtype,
        "max_length": spec.data.max_length, "objective": spec.eval.objective, "rungs": rungs_of(spec.eval, num_steps),
        "writes": "rougeL" in spec.eval.all_metrics, "max_new_tokens": spec.eval.max_new_tokens,
        "probes": {p.name: p.max_length for p in spec.eval.probes}, "experiment": "benchmark",
        "mlflow_uri": f"sqlite:///{(folder / 'mlflow.db').as_posix()}", "trials": trials,
    }  # fmt: skip
    (folder / "job.json").write_text(json.dumps(content, indent=1))
    return folder / "job.json"


def _write_rows(file: Path, examples: Sequence[Example], *, with_options: bool) -> None:
    rows = [(e.prompt, e.completion, list(e.options) if with_options else []) for e in examples]
    lines = [json.dumps({"prompt": p, "completion": c, "options": o}) + "\n" for p, c, o in rows]
    file.write_text("".join(lines), encoding="utf-8")
