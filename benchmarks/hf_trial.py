"""The baseline: trials with Hugging Face Trainer and PEFT, as a competent user writes them, without lorasweep.

    python -m benchmarks.hf_trial JOB.json 3           a process per trial, as a multirun or an agent starts it
    python -m benchmarks.hf_trial JOB.json 0 1 2 ...   one process for all; imports, base, data, tokens shared

Started by `sweep.py`. The baseline is fast: SDPA attention, fused AdamW, no checkpoints, few log lines, tokenisation in
two calls, no needless mask, batched evaluation, the base's probe scores from a file after the first trial has measured
them, and one batch of MLflow calls at the end.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback

from benchmarks.hf_eval import IGNORED, Row, read_rows, right_padded, rouge, score_options

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
LOG_EVERY = 10  # steps; each point of the curve costs time
Metrics = dict[str, float]
Report = Callable[[int, Metrics], None]


class Setup:
    """Base, rows and the base's probe scores. All trials of a process share it."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.job, self.folder = job, Path(job["folder"])
        self.tokenizer: Any = AutoTokenizer.from_pretrained(job["model"])
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.pad_id = int(self.tokenizer.pad_token_id)
        self.base: Any = AutoModelForCausalLM.from_pretrained(
            job["model"], dtype=DTYPES[job["dtype"]], attn_implementation="sdpa",
            device_map={"": "cuda" if torch.cuda.is_available() else "cpu"},
        )  # fmt: skip
        rows = self._rows("train", job["max_length"])
        whole = [((row.prompt + row.completion)[: job["max_length"]], len(row.prompt)) for row in rows]
        self.train = [{"input_ids": ids, "labels": [IGNORED] * cut + ids[cut:]} for ids, cut in whole]
        self.validation = self._rows("validation", job["max_length"])
        self.probes = {name: self._rows(name, max_length) for name, max_length in job["probes"].items()}
        self.before = self._base_scores()

    def _rows(self, name: str, max_length: int) -> list[Row]:
        return read_rows(self.folder / f"{name}.jsonl", self.tokenizer, max_length)

    def scores(self, model: Any) -> Metrics:
        """Return the accuracy of every probe."""
        return {name: score_options(model, rows, self.pad_id)["accuracy"] for name, rows in self.probes.items()}

    def _base_scores(self) -> Metrics:
        """Score the base once per sweep: trials in separate processes share the result through a file."""
        cache = self.folder / "base_scores.json"
        if not cache.is_file():
            aside = cache.with_suffix(f".{os.getpid()}")
            aside.write_text(json.dumps(self.scores(self.base)))
            aside.replace(cache)
        scores: Metrics = json.loads(cache.read_text())
        return scores

    def collate(self, examples: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        """Pad on the right. A causal model does not attend to later tokens, so it needs no mask, which slows SDPA."""
        fills = {"input_ids": self.pad_id, "labels": IGNORED}
        return {name: right_padded([e[name] for e in examples], fill) for name, fill in fills.items()}


class AtRungs(TrainerCallback):
    """Scores the validation split at the job's rungs before the last."""

    def __init__(self, setup: Setup, report: Report) -> None:
        self.setup, self.report = setup, report

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step in self.setup.job["rungs"][:-1]:
            self.report(state.global_step, score_options(kwargs["model"], self.setup.validation, self.setup.pad_id))
            kwargs["model"].train()


def adapt(setup: Setup, trial: dict[str, Any]) -> Any:
    """Return the base with a new adapter."""
    set_seed(trial["train"]["seed"])
    return get_peft_model(setup.base, LoraConfig(task_type="CAUSAL_LM", **trial["lora"]))


def fit(
    setup: Setup, model: Any, trial: dict[str, Any], data: Any, report: Report, **settings: Any
) -> list[dict[str, float]]:
    """Train an adapter and return what `Trainer` logged."""
    arguments: dict[str, Any] = {
        "output_dir": setup.job["folder"], "optim": "adamw_torch_fused", "bf16": setup.job["dtype"] == "bf16",
        "logging_steps": LOG_EVERY, "save_strategy": "no", "report_to": "none", "disable_tqdm": True,
        "dataloader_pin_memory": torch.cuda.is_available(), **trial["train"], **settings,
    }  # fmt: skip
    trainer = Trainer(model=model, args=TrainingArguments(**arguments), train_dataset=data, data_collator=setup.collate,
                      callbacks=[AtRungs(setup, report)])  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return trainer.state.log_history


def evaluate(setup: Setup, model: Any) -> Metrics:
    """Score a finished adapter in full: validation, ROUGE-L and forgetting."""
    metrics = score_options(model, setup.validation, setup.pad_id)
    if setup.job["writes"]:
        metrics["rougeL"] = rouge(model, setup.tokenizer, setup.validation, setup.job["max_new_tokens"])
    after = setup.scores(model)
    chances = {name: fmean(1 / len(row.options) for row in rows) for name, rows in setup.probes.items()}
    lost = [(before - after[n]) / (before - chances[n]) for n, before in setup.before.items() if before > chances[n]]
    forgetting = {"forgetting": fmean(lost)} if lost else {}
    return metrics | forgetting | {f"probe/{name}": value for name, value in after.items()}


def run_trial(setup: Setup, trial: dict[str, Any]) -> dict[str, Any]:
    """Train, score and log one trial; remove its adapter from the base."""
    curve: list[tuple[int, Metrics]] = []
    model = adapt(setup, trial)
    log = fit(setup, model, trial, setup.train, lambda *point: curve.append(point))
    curve += [(int(line["step"]), {"train_loss": line["loss"]}) for line in log if "loss" in line]
    metrics = evaluate(setup, model)
    model.unload()
    track(setup.job, trial, [*curve, (max(setup.job["rungs"]), metrics)])
    return {"number": trial["number"], "metrics": metrics}


def track(job: dict[str, Any], trial: dict[str, Any], curve: list[tuple[int, Metrics]]) -> None:
    """Log a trial's parameters and curves in the existing MLflow store."""
    client, now_ms = MlflowClient(job["mlflow_uri"]), int(time.time() * 1000)
    experiment = client.get_experiment_by_name(job["experiment"])
    assert experiment is not None, job["experiment"]
    run = client.create_run(experiment.experiment_id, run_name=f"trial-{trial['number']:03d}").info.run_id
    points = [Metric(name, value, now_ms, step) for step, values in curve for name, value in values.items()]
    params = [Param(name, str(value)) for name, value in {**trial["lora"], **trial["train"]}.items()]
    client.log_batch(run, metrics=points, params=params)
    client.set_terminated(run)


def main() -> None:
    setup = Setup(json.loads(Path(sys.argv[1]).read_text()))
    for number in sys.argv[2:]:
        result = run_trial(setup, setup.job["trials"][int(number)])
        (setup.folder / f"trial-{number}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
