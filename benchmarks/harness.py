"""Are accuracies equal to those of lm-evaluation-harness, on the same base and the same local file?

    pip install lm_eval==0.4.13
    python -m benchmarks.harness --model path/to/base --rows questions.jsonl --format arc

`accuracy` equals its `acc`, and `accuracy_norm` its `acc_bytes`. Its `acc_norm` counts characters, so it is equal only
for ASCII options. The harness scores no end token; a second line is with the end token. Takes a minute for 600
questions on a base of 12M parameters.
"""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import yaml

from benchmarks.output import command_line, write
from lorasweep.adapters.load import load_base
from lorasweep.core.spec import DType, EvalSpec, ModelSpec, ProbeSpec
from lorasweep.data.tasks import load_probe
from lorasweep.models.base import Base
from lorasweep.models.tokenizer import tokenizer_key
from lorasweep.worker.scoring import PackedModel, score_suite

METRICS = ("accuracy", "accuracy_norm", "accuracy_token")

# The text, choices and target in a task file of lm-evaluation-harness, which puts a blank before options.
LAYOUTS: dict[str, tuple[str, str, str]] = {
    "prompt_completion": ("{{prompt}}", "{{options | map('trim') | list}}", "{{options.index(completion)}}"),
    "arc": ("Question: {{question}}\nAnswer:", "{{choices.text}}", "{{choices.label.index(answerKey)}}"),
    "winogrande": (
        "{{ {'1': 0, '2': 1}[answer] }}",
        "{{[sentence.split('_')[0] ~ option1, sentence.split('_')[0] ~ option2]}}",
        "{{sentence.split('_')[1] | trim}}",
    ),
}
THEIRS = ("acc", "acc_norm", "acc_bytes")


def theirs(base: Base, rows: Path, layout: str) -> dict[str, float]:
    """Return the accuracies of lm-evaluation-harness."""
    from lm_eval import evaluator  # type: ignore[import-not-found]
    from lm_eval.models.huggingface import HFLM  # type: ignore[import-not-found]
    from lm_eval.tasks import TaskManager  # type: ignore[import-not-found]

    task = {
        "task": "local", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(rows.absolute())}},
        "test_split": "test", "output_type": "multiple_choice", "metric_list": [{"metric": name} for name in THEIRS],
        **dict(zip(("doc_to_text", "doc_to_choice", "doc_to_target"), LAYOUTS[layout], strict=True)),
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "local.yaml").write_text(yaml.safe_dump(task))
        loaded = TaskManager(include_path=folder, include_defaults=False).load_task_or_group(["local"])
        model = HFLM(pretrained=base.model, tokenizer=base.tokenizer, batch_size=16, max_length=1024)
        found = evaluator.evaluate(lm=model, task_dict=loaded, bootstrap_iters=0)["results"]["local"]
    return {name: float(found[f"{name},none"]) for name in THEIRS if f"{name},none" in found}


def ours(base: Base, rows: Path, layout: str, *, end_token: bool) -> dict[str, float]:
    """Return the accuracies of lorasweep."""
    probe = ProbeSpec(name="local", path=str(rows), format=layout, max_length=1024)
    tokens = load_probe(probe, base.tokenizer, tokenizer_key(base.tokenizer))
    spec = replace(EvalSpec(), end_token=end_token)
    return score_suite(PackedModel(base, None, (), spec.batch_rows), tokens, METRICS, spec)[0].metrics


def main() -> None:
    parser = command_line(__doc__, __file__)
    parser.add_argument("--model", required=True, help="a folder or hub id")
    parser.add_argument("--dtype", default="fp32", choices=get_args(DType))
    parser.add_argument("--rows", type=Path, required=True, help="a JSONL file of questions with options")
    parser.add_argument("--format", default="prompt_completion", choices=tuple(LAYOUTS))
    args = parser.parse_args()
    base = load_base(ModelSpec(id=args.model, dtype=args.dtype), "cpu")
    values: list[dict[str, Any]] = [{"program": "lm-evaluation-harness", **theirs(base, args.rows, args.format)}]
    for name, end_token in (("lorasweep, no end token", False), ("lorasweep, with end token", True)):
        values.append({"program": name, **ours(base, args.rows, args.format, end_token=end_token)})
    print(write(args.out, {"lm-evaluation-harness": values[:1], "lorasweep": values[1:]}))


if __name__ == "__main__":
    main()
