"""Rows of general benchmarks become the same questions as in lm-evaluation-harness."""

import json
from pathlib import Path
from typing import Any

import pytest

from lorasweep.core.errors import DataError
from lorasweep.core.spec import ProbeSpec
from lorasweep.data.formats import Example
from lorasweep.data.tasks import load_probe
from tests.tiny import tokenizer

HELLASWAG = {
    "activity_label": "Making tea", "ctx_a": "A kettle stands on the stove.", "ctx_b": "the water",
    "ctx": "A kettle stands on the stove. the water", "label": "1",
    "endings": ["[header] sings a song.", "boils  and steams [title] Pour it."],
}  # fmt: skip
ARC = {"question": "What melts?", "choices": {"text": ["stone", "ice"], "label": ["A", "B"]}, "answerKey": "B"}
WINOGRANDE = {"sentence": "The cup did not fit the box as the _ was too big.", "option1": "box", "option2": "cup",
              "answer": "2"}  # fmt: skip


def file(folder: Path, *rows: dict[str, Any]) -> str:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def probe(folder: Path, kind: str, *rows: dict[str, Any]) -> ProbeSpec:
    return ProbeSpec(name="p", path=file(folder, *rows), format=kind, metric="accuracy", end_token=False)


def example(folder: Path, kind: str, row: dict[str, Any]) -> Example:
    from lorasweep.data.splits import read_source

    ((found,), _) = read_source(file(folder, row), probe(folder, kind, row))
    return found


def test_hellaswag_begins_with_its_activity_and_loses_its_marks(tmp_path: Path) -> None:
    found = example(tmp_path, "hellaswag", HELLASWAG)
    assert found.prompt == "Making tea: A kettle stands on the stove. The water"
    assert found.options == ("  sings a song.", " boils and steams. Pour it.")
    assert found.completion == found.options[1]


def test_hellaswag_without_parts_begins_with_its_context(tmp_path: Path) -> None:
    row = {"ctx": "A man sits", "endings": ["down.", "up."], "label": 0}
    found = example(tmp_path, "hellaswag", row)
    assert (found.prompt, found.completion) == ("A man sits", " down.")


def test_arc_names_its_answer_by_a_label(tmp_path: Path) -> None:
    found = example(tmp_path, "arc", ARC)
    assert (found.prompt, found.options, found.completion) == (
        "Question: What melts?\nAnswer:", (" stone", " ice"), " ice",
    )  # fmt: skip


def test_winogrande_scores_the_same_ending_after_either_option(tmp_path: Path) -> None:
    (row,) = load_probe(probe(tmp_path, "winogrande", WINOGRANDE), tokenizer(), "k")
    texts = [tokenizer().decode(list(prompt)) for prompt in row.option_prompts]
    assert texts == [f"The cup did not fit the box as the {word}" for word in ("box", "cup")]
    assert row.options[0] == row.options[1] and row.target == 1
    assert row.ids[: row.prompt_length] == row.option_prompts[1]


@pytest.mark.parametrize(
    ("kind", "row", "message"),
    [
        ("hellaswag", {**HELLASWAG, "label": ""}, "'label' is '', not one of 0, 1"),
        ("hellaswag", {"ctx": "A"}, "has no list 'endings'"),
        ("arc", {**ARC, "answerKey": "E"}, "'answerKey' is 'E', not one of A, B"),
        ("arc", {"question": "Q"}, "has no 'choices'"),
        ("winogrande", {**WINOGRANDE, "sentence": "No blank."}, "has no blank '_'"),
    ],
)
def test_a_row_without_what_its_layout_needs_is_named(
    tmp_path: Path, kind: str, row: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=f"rows.jsonl:1: {message}"):
        load_probe(probe(tmp_path, kind, row), tokenizer(), "k")
