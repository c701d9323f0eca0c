"""The baseline: a trial with Hugging Face Trainer and PEFT, as a competent user writes it. Knows nothing of lorasweep.

    python -m benchmarks.hf_trial JOB.json --trials 3          a process per trial, as a multirun or an agent starts it
    python -m benchmarks.hf_trial JOB.json --trials 0 1 2 ...  one process for all; imports, base, data, tokens shared

What it gives the baseline: SDPA attention, fused AdamW, no checkpoints, few log lines, tokenisation in two calls, no
mask where none is needed, batched evaluation, the base's probe scores from a file once a trial has measured them, and
one batch of MLflow calls at the end.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

import psutil
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback

from benchmarks.hf_data import Collator, Row, read_rows, training_examples
from benchmarks.hf_eval import score_options, score_probe, score_texts
from benchmarks.hf_track import track

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
LOG_EVERY = 10  # steps; each point of the curve costs a moment
Metrics = dict[str, float]
Report = Callable[[int, Metrics], None]


class Setup:
    """What every trial needs. A process that runs several trials makes it once. `seconds` says where the time went."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.job = job
        self.seconds: Metrics = {}
        with self.part("load"):
            self.tokenizer: Any = AutoTokenizer.from_pretrained(job["model"])
            if self.tokenizer.pad_token is None:
                self.tokenizer.pad_token = self.tokenizer.eos_token
            device = "cuda" if torch.cuda.is_available() else "cpu"
            self.base: Any = AutoModelForCausalLM.from_pretrained(
                job["model"], dtype=DTYPES[job["dtype"]], attn_implementation="sdpa", device_map={"": device}
            )
        with self.part("data"):
            self.train = training_examples(self._rows("train", job["max_length"]), job["max_length"])
            self.validation = self._rows("validation", job["max_length"])
            self.probes = {p["name"]: (self._rows(p["name"], p["max_length"]), p["metric"]) for p in job["probes"]}
        with self.part("baseline"):
            self.before = self._base_scores()

    def chance(self, name: str) -> float:
        """Return what guessing scores on a probe."""
        rows, metric = self.probes[name]
        return fmean(1 / len(row.options) for row in rows) if metric == "accuracy" else 0.0

    @property
    def pad_id(self) -> int:
        return int(self.tokenizer.pad_token_id)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the time inside to a part's."""
        started = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

    def scores(self, model: Any) -> Metrics:
        """Return every probe's score."""
        return {name: score_probe(model, rows, metric, self.pad_id) for name, (rows, metric) in self.probes.items()}

    def _rows(self, name: str, max_length: int) -> list[Row]:
        return read_rows(Path(self.job["folder"]) / f"{name}.jsonl", self.tokenizer, max_length)

    def _base_scores(self) -> Metrics:
        """Score the base, once per sweep: trials in processes of their own share the result through a file."""
        cache = Path(self.job["base_scores"])
        if cache.is_file():
            known: Metrics = json.loads(cache.read_text())
            return known
        scores = self.scores(self.base)
        aside = cache.with_suffix(f".{os.getpid()}")
        aside.write_text(json.dumps(scores))
        aside.replace(cache)
        return scores


class AtRungs(TrainerCallback):
    """Score validation at the job's rungs before the last."""

    def __init__(self, setup: Setup, report: Report) -> None:
        self.setup = setup
        self.report = report

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step in self.setup.job["rungs"][:-1]:
            with self.setup.part("rungs"):
                self.report(state.global_step, score_options(kwargs["model"], self.setup.validation, self.setup.pad_id))
            kwargs["model"].train()


def adapt(setup: Setup, lora: dict[str, Any], seed: int) -> Any:
    """Return the base with a fresh adapter."""
    set_seed(seed)
    return get_peft_model(setup.base, LoraConfig(task_type="CAUSAL_LM", **lora))


def fit(
    setup: Setup, model: Any, train: dict[str, Any], data: Any, report: Report, **settings: Any
) -> list[dict[str, float]]:
    """Train an adapter and return what `Trainer` logged."""
    arguments: dict[str, Any] = {
        "output_dir": setup.job["folder"],
        "optim": "adamw_torch_fused",
        "bf16": setup.job["dtype"] == "bf16",
        "logging_steps": LOG_EVERY,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": torch.cuda.is_available(),
        **train,
        **settings,
    }
    trainer = Trainer(
        model=model,
        args=TrainingArguments(**arguments),
        train_dataset=data,
        data_collator=Collator(setup.pad_id),
        callbacks=[AtRungs(setup, report)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return trainer.state.log_history


def evaluate(setup: Setup, model: Any) -> Metrics:
    """Score a finished adapter in full: validation, ROUGE-L, and what it forgot of the base's abilities."""
    with setup.part("score"):
        metrics = score_options(model, setup.validation, setup.pad_id)
    if setup.job["writes"]:
        with setup.part("write"):
            metrics |= score_texts(model, setup.tokenizer, setup.validation, setup.job["max_new_tokens"])
    with setup.part("probes"):
        after = setup.scores(model)
    metrics |= {f"probe/{name}": value for name, value in after.items()}
    if after:
        metrics["forgetting"] = fmean(
            (score - after[name]) / (score - chance)
            for name, score in setup.before.items()
            if score > (chance := setup.chance(name))
        )
    return metrics


def run_trial(setup: Setup, trial: dict[str, Any]) -> dict[str, Any]:
    """Train, score and log one trial, and leave the base as it was."""
    curve: list[tuple[int, Metrics]] = []
    model = adapt(setup, trial["lora"], trial["train"]["seed"])
    with setup.part("train and rungs"):
        log = fit(setup, model, trial["train"], setup.train, lambda step, metrics: curve.append((step, metrics)))
    curve += [(int(line["step"]), {"train_loss": line["loss"]}) for line in log if "loss" in line]
    metrics = evaluate(setup, model)
    model.unload()
    with setup.part("track"):
        track(setup.job, trial, metrics, curve)
    return {"number": trial["number"], "metrics": metrics, "seconds": dict(setup.seconds)}


def main() -> None:
    """Run the trials named on the command line, one after another."""
    begun = time.time() - psutil.Process().create_time()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job", type=Path)
    parser.add_argument("--trials", type=int, nargs="+", required=True)
    arguments = parser.parse_args()
    setup = Setup(json.loads(arguments.job.read_text()))
    setup.seconds["start and imports"] = begun
    for number in arguments.trials:
        result = run_trial(setup, setup.job["trials"][number])
        (Path(setup.job["folder"]) / f"trial-{number}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
