"""Record whole sweeps with dense rungs and no pruner, so that pruning policies can be tried on their curves."""

import csv
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lorasweep.cli import main
from lorasweep.core.result import TrialResult, TrialState
from lorasweep.driver.ledger import Ledger

DENSE = 16  # rungs per trial: every spacing that is tried takes some of them
ROWS = {"train": 3000, "validation": 200}
ALWAYS = (f"eval.rungs={DENSE}", "eval.rung_factor=1", "eval.metrics=[]", "eval.num_samples=0", "data.test=null",
          "probes=none", "tracking=none", "study.sampler=grid", "study.pruner=none")  # fmt: skip
DEMO = ("model=demo",)
TASKS: Mapping[str, Sequence[str]] = {
    # The shipped sweep: its trials are close to each other, so that a winner is easily lost.
    "intents, accuracy": (*DEMO, "+sweep=rank_alpha", "data=demo_intents", "eval.rung_limit=64"),
    # Answers are written out at every rung, which is slow: fewer examples.
    "answers, rougeL": (*DEMO, "data=demo_answers", "eval.rung_limit=32", "lora.r=4,16", "lora.lora_alpha=2r",
                        "train.learning_rate=3e-3,1e-2,3e-2", "lora.target_modules=qv,all-linear"),
}  # fmt: skip
REAL = ("data=classification", "eval.objective=loss", "lora.r=4,16", "lora.lora_alpha=2r", "model.dtype=bf16",
        "lora.target_modules=mlp,all-linear", "train.learning_rate=1e-3,3e-3,1e-2", "train.max_steps=80",
        "train.warmup_steps=0.1", "data.max_length=64", "eval.rung_limit=64")  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """A full sweep of one task with one seed."""

    task: str
    seed: int
    results: tuple[TrialResult, ...]


def tasks(model: str | None, table: Path | None, folder: Path) -> dict[str, list[str]]:
    """Return each task's command line; the third needs a base and a table of texts and labels."""
    found = {name: list(line) for name, line in TASKS.items()}
    if model and table:
        train, validation = _draw(table, folder)
        own = [f"model.id={model}", f"data.train={train}", f"data.validation={validation}"]
        found[f"{table.parent.name}, loss"] = [*REAL, *own]
    return found


def record(lines: Mapping[str, Sequence[str]], seeds: Sequence[int], folder: Path) -> Iterator[Sweep]:
    """Run every task with every seed, or what is left of it; an interrupted sweep ends the whole."""
    for seed in seeds:
        for name, line in lines.items():
            place = folder / f"{name.split(',')[0]}-{seed}"
            if code := main([*line, *ALWAYS, f"train.seed={seed}", f"output_dir={place}"]):
                raise SystemExit(code)
            yield Sweep(task=name, seed=seed, results=complete(place))


def complete(place: Path) -> tuple[TrialResult, ...]:
    """Return the complete trials of the one run below a folder."""
    (run,) = place.glob("*/")
    ledger = Ledger(run)
    ledger.close()
    return tuple(r for r in ledger.results.values() if r.state is TrialState.COMPLETE and r.same_as is None)


def _draw(table: Path, folder: Path) -> tuple[Path, Path]:
    """Draw rows by lot: such tables are often sorted by label."""
    with table.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    random.Random(0).shuffle(rows)
    parts = {"train": rows[: ROWS["train"]], "validation": rows[ROWS["train"] :][: ROWS["validation"]]}
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *part])
    return folder / "train.csv", folder / "validation.csv"
