"""Accuracies of local files equal those of lm-evaluation-harness, which scores no end token."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from lorasweep.adapters.load import load_base
from lorasweep.core.spec import EvalSpec, ModelSpec, ProbeSpec
from lorasweep.data.tasks import load_probe
from lorasweep.models.tokenizer import tokenizer_key
from lorasweep.worker.scoring import PackedModel, score_suite

evaluator = pytest.importorskip("lm_eval.evaluator", reason="needs lm_eval (tested with 0.4.13)")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # lm_eval's own warnings
# In WinoGrande's layout options differ in the prompt, by whose length the harness divides.
COMPARED = {"arc": {"accuracy": "acc", "accuracy_norm": "acc_bytes"}, "winogrande": {"accuracy": "acc"}}
ANIMALS = ("cat", "horse", "bird", "elephant", "ant", "salamander")
ROWS: dict[str, list[dict[str, Any]]] = {
    "arc": [
        {"question": f"Which animal has {legs} legs in story {n}?", "answerKey": "ABC"[n % 3],
         "choices": {"text": [ANIMALS[(n + i) % 6] for i in range(3)], "label": ["A", "B", "C"]}}
        for n in range(20) for legs in ("two", "four")
    ],
    "winogrande": [
        {"sentence": f"The {a} saw the {b} before the _ ran {n} miles.", "option1": a, "option2": b,
         "answer": str(1 + n % 2)}
        for n in range(8) for a, b in itertools.pairwise(ANIMALS)
    ],
}  # fmt: skip
# The text, choices and target in a task file of lm-evaluation-harness, which puts a blank before options.
TASKS = {
    "arc": ("Question: {{question}}\nAnswer:", "{{choices.text}}", "{{choices.label.index(answerKey)}}"),
    "winogrande": (
        "{{ {'1': 0, '2': 1}[answer] }}",
        "{{[sentence.split('_')[0] ~ option1, sentence.split('_')[0] ~ option2]}}",
        "{{sentence.split('_')[1] | trim}}",
    ),
}


@pytest.mark.parametrize("layout", TASKS)
def test_accuracies_equal_those_of_lm_evaluation_harness(layout: str, tmp_path: Path) -> None:
    from lm_eval.models.huggingface import HFLM  # type: ignore[import-not-found]
    from lm_eval.tasks import TaskManager  # type: ignore[import-not-found]

    rows, base = tmp_path / "rows.jsonl", load_base(ModelSpec(id="demo"), "cpu")
    rows.write_text("\n".join(json.dumps(row) for row in ROWS[layout]))
    task = {
        "task": "local", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(rows)}},
        "test_split": "test", "output_type": "multiple_choice",
        "metric_list": [{"metric": name} for name in COMPARED[layout].values()],
        **dict(zip(("doc_to_text", "doc_to_choice", "doc_to_target"), TASKS[layout], strict=True)),
    }  # fmt: skip
    (tmp_path / "local.yaml").write_text(yaml.safe_dump(task))
    loaded = TaskManager(include_path=str(tmp_path), include_defaults=False).load_task_or_group(["local"])
    model = HFLM(pretrained=base.model, tokenizer=base.tokenizer, batch_size=16, max_length=512)
    theirs = evaluator.evaluate(lm=model, task_dict=loaded, bootstrap_iters=0)["results"]["local"]
    probe = ProbeSpec(name="local", path=str(rows), format=layout, max_length=512)
    tokens = load_probe(probe, base.tokenizer, tokenizer_key(base.tokenizer))
    spec = EvalSpec(end_token=False)
    names = COMPARED[layout]
    ours = score_suite(PackedModel(base, None, (), spec.batch_rows), tokens, tuple(names), spec)[0].metrics
    assert {own: ours[name] for name, own in names.items()} == pytest.approx(
        {own: theirs[f"{own},none"] for own in names.values()}
    )
