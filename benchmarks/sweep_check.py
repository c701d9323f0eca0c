"""Do both sides of `sweep.py` do the same work? Assert this before anything is timed; takes half a minute.

lorasweep runs a few trials from the command line, packed together. The baseline starts from the same initial adapters
and trains on the same rows in the same order: the losses of all steps must agree. PEFT then loads the adapters that
lorasweep saved, and the baseline's own code scores them: the metrics must agree.
"""

import io
import json
import math
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, set_peft_model_state_dict

from benchmarks import hf_trial
from benchmarks.sweep_job import export, make_job
from lorasweep import cli
from lorasweep.adapters.methods.table import method_of
from lorasweep.core.spec import TrialSpec
from lorasweep.data.batches import epoch_order
from lorasweep.driver.stored import spec_from_json
from lorasweep.models.info import describe

# Small and large adapters, on few modules and on all, at a learning rate with visible progress.
CHECKED = {"lora.r": "8,32", "lora.target_modules": "qv,all-linear", "lora.lora_alpha": "16",
           "train.learning_rate": "1e-3"}  # fmt: skip
CLOSE_LOSS = 1e-5  # nats in fp32: the order of summation differs
MOST_TRIALS, MOST_STEPS = 3, 40  # of more than 50 steps, lorasweep keeps only some losses


def check(folder: Path, given: Mapping[str, str]) -> dict[str, float]:
    """Run trials of the benchmark's own base and data on both sides, and return the largest differences.

    Raises:
        AssertionError: a loss, a gradient or a metric differs, or a gradient is zero.
    """
    steps = min(MOST_STEPS, int(given.get("train.max_steps", MOST_STEPS)))
    job = make_job({**CHECKED, **given, "model.dtype": "fp32", "train.max_steps": str(steps)}, 0)
    setup = hf_trial.Setup(json.loads(export(job, folder).read_text()))
    with redirect_stdout(io.StringIO()):
        code = cli.main([*job.overrides, "study.keep_adapters=99", "tracking=none", f"output_dir={folder / 'runs'}"])
    assert code == 0, f"lorasweep ended with {code}"
    numbers = {spec.fingerprint: number for number, spec in enumerate(job.specs)}
    files = sorted(folder.glob("runs/*/trials/*/result.json"))[:MOST_TRIALS]
    gaps = []
    for file in files:
        result = json.loads(file.read_text())
        number = numbers[spec_from_json(result["spec"]).fingerprint]
        points = [p for p in result["history"] if "train/step_loss" in p["metrics"]]
        log = _train(setup, setup.job["trials"][number], job.specs[number])
        theirs = {int(line["step"]): line["loss"] for line in log}
        assert len(points) == len(theirs) == job.specs[number].train.max_steps, (len(points), len(theirs))
        assert all(0 < line["grad_norm"] < math.inf for line in log), f"{file}: {log}"
        loss = max(abs(p["metrics"]["train/step_loss"] - theirs[p["step"]]) for p in points)
        assert loss <= CLOSE_LOSS, f"{file}: training losses differ by {loss:.1e}"
        gaps.append({"loss": loss, **_compare_metrics(setup, result, file.parent / "adapter")})
    assert gaps, "no trial was compared"
    return {name: max(gap[name] for gap in gaps) for name in gaps[0]}


def _train(setup: hf_trial.Setup, trial: dict[str, Any], spec: TrialSpec) -> list[dict[str, float]]:
    """Train with `Trainer` from lorasweep's initial adapter on the same rows in order; return the log of each step."""
    model = hf_trial.adapt(setup, trial)
    # lorasweep draws A per module from the trial's seed; B is zero at first on both sides.
    generator, start = torch.Generator().manual_seed(spec.train.seed), {}
    for path, (inputs, _) in describe(spec.model.id).adapted(spec.lora.target_modules).items():
        a_RD = torch.empty(method_of(spec.lora).rank(spec.lora), inputs)
        torch.nn.init.kaiming_uniform_(a_RD, a=math.sqrt(5), generator=generator)
        start[f"base_model.model.{path}.lora_A.weight"] = a_RD
    set_peft_model_state_dict(model, start)
    num_rows = spec.train.max_steps * spec.train.per_device_train_batch_size * spec.train.gradient_accumulation_steps
    order = epoch_order(len(setup.train), spec.train.seed, 0)[:num_rows]
    assert len(order) == num_rows, f"{num_rows} rows are more than an epoch"
    settings = {"train_sampling_strategy": "sequential", "logging_steps": 1}
    log = hf_trial.fit(setup, model, trial, [setup.train[i] for i in order], lambda *_: None, **settings)
    model.unload()
    return [line for line in log if "loss" in line]


def _compare_metrics(setup: hf_trial.Setup, result: Mapping[str, Any], adapter: Path) -> dict[str, float]:
    """Score lorasweep's adapter with the baseline's code; return the differences of the metrics."""
    model = PeftModel.from_pretrained(setup.base, adapter)
    theirs = hf_trial.evaluate(setup, model) | {f"before/{name}": value for name, value in setup.before.items()}
    model.unload()
    ours: dict[str, float] = {
        name: result["metrics"][name] for name in ("accuracy", "loss", "rougeL") if name in theirs
    }
    ours |= {f"probe/{p['name']}": p["after"] for p in result["probes"]}
    ours |= {f"before/{p['name']}": p["before"] for p in result["probes"]}
    gaps = {name: abs(value - theirs[name]) for name, value in ours.items()}
    limits = {"loss": CLOSE_LOSS, "rougeL": 1e-6}
    assert all(gap <= limits.get(name, 1e-12) for name, gap in gaps.items()), (adapter, gaps)
    return {f"validation {name}": gap for name, gap in gaps.items() if name in limits}
