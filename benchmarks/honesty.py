"""Show that both sides do the same work, before any of it is timed.

lorasweep runs a few trials as a user runs it: from the command line's door, packed together. The baseline then starts
from the same initial adapters and sees the same rows in the same order: the losses of all steps have to agree. And the
adapters that lorasweep saved are loaded by PEFT and scored by the baseline's own code: the metrics have to agree.
"""

import io
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor

from benchmarks import hf_trial
from benchmarks.sweep_job import Job, export, make_job
from lorasweep import cli
from lorasweep.core.spec import TrialSpec
from lorasweep.data.batches import epoch_order
from lorasweep.models.info import describe

# Small and large adapters, on few modules and on all, at a rate that teaches.
CHECKED = {
    "lora.r": "8,32",
    "lora.target_modules": "qv,all-linear",
    "lora.lora_alpha": "16",
    "train.learning_rate": "1e-3",
}
CLOSE_LOSS = 1e-5  # nats in fp32: sums are taken in another order
CLOSE_TEXT = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """The largest differences over all trials, and the least gradient norm of any step."""

    trials: int
    steps: int
    loss: float  # of the training steps
    weights: float  # of the trained adapters; told, not asserted, for Adam turns rounding of tiny gradients into steps
    validation_loss: float
    rouge: float
    least_gradient: float


def check_honesty(
    folder: Path, given: Sequence[str], *, steps: int, axes: Mapping[str, str] = CHECKED, most_trials: int = 3
) -> Agreement:
    """Run trials of the benchmark's own base and data on both sides, and compare them.

    Raises:
        AssertionError: a loss, a gradient or a metric shows that the sides do different work.
    """
    job = make_job(axes, 0, [*given, "model.dtype=fp32", f"train.max_steps={steps}"])
    setup = hf_trial.Setup(json.loads(export(job, folder).read_text()))
    trials = _run_ours(job, folder)[:most_trials]
    found = [_compare(setup, spec, trial) for spec, trial in trials]
    return Agreement(
        trials=len(found),
        steps=steps,
        loss=max(x.loss for x in found),
        weights=max(x.weights for x in found),
        validation_loss=max(x.validation_loss for x in found),
        rouge=max(x.rouge for x in found),
        least_gradient=min(x.least_gradient for x in found),
    )


def _run_ours(job: Job, folder: Path) -> list[tuple[TrialSpec, Path]]:
    """Return each trial's spec and its folder in lorasweep's ledger."""
    kept = ["study.keep_adapters=99", "tracking=none", f"output_dir={folder / 'runs'}"]
    with redirect_stdout(io.StringIO()):
        code = cli.main([*job.overrides, *kept])
    assert code == 0, f"lorasweep ended with {code}"
    specs = {spec.fingerprint: spec for spec in job.specs}
    folders = [file.parent for file in sorted(folder.glob("runs/*/trials/*/result.json"))]
    return [(specs[_result(trial)["fingerprint"]], trial) for trial in folders]


def _result(trial: Path) -> Any:
    return json.loads((trial / "result.json").read_text())


def _compare(setup: hf_trial.Setup, spec: TrialSpec, trial: Path) -> Agreement:
    result = _result(trial)
    # Of more than 50 steps lorasweep keeps some; one that differs would make all later ones differ.
    points = [p for p in result["history"] if "train/step_loss" in p["metrics"]]
    ours = {p["step"]: p["metrics"]["train/step_loss"] for p in points}
    log, weights = _train(setup, spec)
    theirs = {int(line["step"]): line["loss"] for line in log}
    assert len(ours) >= min(spec.train.max_steps, 50) and len(theirs) == spec.train.max_steps, (len(ours), len(theirs))
    loss = max(abs(value - theirs[step]) for step, value in ours.items())
    least_gradient = min(line["grad_norm"] for line in log)
    assert loss <= CLOSE_LOSS, f"{trial}: training losses differ by {loss:.1e}"
    assert least_gradient > 0 and math.isfinite(least_gradient), f"{trial}: gradient norm {least_gradient}"
    saved = load_file(trial / "adapter" / "adapter_model.safetensors")
    begun = _initial(spec)
    still = [n for n, tensor in saved.items() if torch.equal(tensor, begun.get(n, torch.zeros_like(tensor)))]
    assert not still, f"{trial}: not trained: {', '.join(still)}"
    validation_loss, rouge = _compare_metrics(setup, result, trial / "adapter")
    return Agreement(
        trials=1,
        steps=len(theirs),
        loss=loss,
        weights=max(float((saved[name] - weights[name]).abs().max()) for name in saved),
        validation_loss=validation_loss,
        rouge=rouge,
        least_gradient=least_gradient,
    )


def _train(setup: hf_trial.Setup, spec: TrialSpec) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    """Train with `Trainer` from lorasweep's initial adapter, on its rows in its order."""
    trial = next(t for t in setup.job["trials"] if _is_same(t, spec))
    model = hf_trial.adapt(setup, trial["lora"], spec.train.seed)
    set_peft_model_state_dict(model, _initial(spec))
    num_rows = spec.train.max_steps * spec.train.per_device_train_batch_size * spec.train.gradient_accumulation_steps
    order = epoch_order(len(setup.train), spec.train.seed, 0)[:num_rows]
    assert len(order) == num_rows, f"{num_rows} rows are more than an epoch; lower --check-steps"
    data = [setup.train[i] for i in order]
    log = hf_trial.fit(
        setup, model, trial["train"], data, lambda *_: None, train_sampling_strategy="sequential", logging_steps=1
    )
    weights = {name: tensor.clone() for name, tensor in get_peft_model_state_dict(model).items()}
    model.unload()
    return [line for line in log if "loss" in line], weights


def _is_same(trial: Mapping[str, Any], spec: TrialSpec) -> bool:
    return (trial["lora"]["r"], trial["lora"]["target_modules"]) == (spec.lora.r, list(spec.lora.target_modules))


def _initial(spec: TrialSpec) -> dict[str, Tensor]:
    """Draw A as lorasweep draws it, module by module from the trial's seed; B begins at zero on both sides."""
    generator = torch.Generator().manual_seed(spec.train.seed)
    state = {}
    for path, (inputs, _) in describe(spec.model.id).adapted(spec.lora.target_modules).items():
        a_RD = torch.empty(spec.lora.r, inputs)
        torch.nn.init.kaiming_uniform_(a_RD, a=math.sqrt(5), generator=generator)
        state[f"base_model.model.{path}.lora_A.weight"] = a_RD
    return state


def _compare_metrics(setup: hf_trial.Setup, result: Mapping[str, Any], adapter: Path) -> tuple[float, float]:
    """Score lorasweep's adapter with the baseline's code; return the differences in loss and ROUGE-L."""
    model = PeftModel.from_pretrained(setup.base, adapter)
    theirs, ours = hf_trial.evaluate(setup, model), result["metrics"]
    model.unload()
    for probe in result["probes"]:
        assert _same(probe["metric"], probe["before"], setup.before[probe["name"]]), (adapter, probe)
        assert _same(probe["metric"], probe["after"], theirs[f"probe/{probe['name']}"]), (adapter, probe)
    if "accuracy" in ours:
        assert ours["accuracy"] == theirs["accuracy"], (adapter, ours, theirs)
    loss, rouge = (abs(ours.get(name, 0.0) - theirs.get(name, 0.0)) for name in ("loss", "rougeL"))
    assert loss <= CLOSE_LOSS and rouge <= CLOSE_TEXT, (adapter, ours, theirs)
    return loss, rouge


def _same(metric: str, first: float, second: float) -> bool:
    return math.isclose(first, second, abs_tol=CLOSE_LOSS if metric == "loss" else 1e-12)
