"""Compare accuracies with lm-evaluation-harness's on the same base and the same local file.

    pip install lm_eval==0.4.13
    python -m benchmarks.harness --model path/to/base --rows questions.jsonl --format prompt_completion

`accuracy` is its `acc`; `accuracy_norm` its `acc_bytes`, and also its `acc_norm`, which counts characters, where all
options are ASCII. It scores no end token, so neither does this comparison; the last line is with the end token.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import yaml

from lorasweep.adapters.load import load_base
from lorasweep.core.spec import DType, EvalSpec, Format, ModelSpec, ProbeSpec
from lorasweep.data.tasks import load_probe
from lorasweep.models.base import Base
from lorasweep.models.tokenizer import tokenizer_key
from lorasweep.worker.scoring import Asked, score_suite

# Each layout in the words of a task file of lm-evaluation-harness; options stand behind a blank there.
LAYOUTS: dict[Format, dict[str, str]] = {
    "prompt_completion": {
        "doc_to_text": "{{prompt}}",
        "doc_to_choice": "{{options | map('trim') | list}}",
        "doc_to_target": "{{options.index(completion)}}",
    },
    "arc": {
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_choice": "{{choices.text}}",
        "doc_to_target": "{{choices.label.index(answerKey)}}",
    },
    "winogrande": {
        "doc_to_text": "{{ {'1': 0, '2': 1}[answer] }}",
        "doc_to_choice": "{{[sentence.split('_')[0] ~ option1, sentence.split('_')[0] ~ option2]}}",
        "doc_to_target": "{{sentence.split('_')[1] | trim}}",
    },
}
THEIRS = ("acc", "acc_norm", "acc_bytes")
OURS = ("accuracy", "accuracy_norm", "accuracy_token")


def theirs(base: Base, rows: Path, layout: Format) -> dict[str, float]:
    """Return the accuracies that lm-evaluation-harness computes."""
    from lm_eval import evaluator  # type: ignore[import-not-found]
    from lm_eval.models.huggingface import HFLM  # type: ignore[import-not-found]
    from lm_eval.tasks import TaskManager  # type: ignore[import-not-found]

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "local.yaml").write_text(yaml.safe_dump(_task(rows, layout)))
        task = TaskManager(include_path=folder, include_defaults=False).load_task_or_group(["local"])
        model = HFLM(pretrained=base.model, tokenizer=base.tokenizer, batch_size=16, max_length=1024)
        found = evaluator.evaluate(lm=model, task_dict=task, bootstrap_iters=0)["results"]["local"]
    return {name: float(found[f"{name},none"]) for name in THEIRS if f"{name},none" in found}


def _task(rows: Path, layout: Format) -> dict[str, Any]:
    return {
        "task": "local",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(rows.absolute())}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "metric_list": [{"metric": name} for name in THEIRS],
        **LAYOUTS[layout],
    }


def ours(base: Base, rows: Path, layout: Format, *, end_token: bool) -> dict[str, float]:
    """Return the accuracies that a sweep computes."""
    probe = ProbeSpec(name="local", path=str(rows), format=layout, max_length=1024)
    tokens = load_probe(probe, base.tokenizer, tokenizer_key(base.tokenizer))
    spec = replace(EvalSpec(), end_token=end_token)
    return score_suite(Asked(base, None, (), spec.batch_rows), tokens, OURS, spec)[0].metrics


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True, help="a folder or hub id")
    parser.add_argument("--dtype", default="fp32", choices=get_args(DType))
    parser.add_argument("--rows", type=Path, required=True, help="a JSONL file of questions with options")
    parser.add_argument("--format", default="prompt_completion", choices=tuple(LAYOUTS))
    given = parser.parse_args()
    base = load_base(ModelSpec(id=given.model, dtype=given.dtype), "cpu")
    print("lm-evaluation-harness", _words(theirs(base, given.rows, given.format)))
    print("without end token    ", _words(ours(base, given.rows, given.format, end_token=False)))
    print("with end token       ", _words(ours(base, given.rows, given.format, end_token=True)))


def _words(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in values.items())


if __name__ == "__main__":
    main()
