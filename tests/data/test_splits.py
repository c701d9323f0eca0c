"""Train, validation and test: the split of a row depends only on the row."""

import json
import random
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lorasweep.core.errors import DataError
from lorasweep.core.spec import DataSpec
from lorasweep.data.formats import Example, read_examples
from lorasweep.data.identity import question_name, row_name
from lorasweep.data.source import Rows, SourceRow
from lorasweep.data.splits import read_splits, set_aside

PAIRS = DataSpec(train="a.jsonl", format="prompt_completion")


def examples(rows: Iterable[dict[str, Any]], **spec: Any) -> list[Example]:
    """Return rows of a file as examples."""
    found = tuple(SourceRow(f"a.jsonl:{i}", row) for i, row in enumerate(rows, 1))
    return read_examples(Rows(found), replace(PAIRS, **spec))[0]


MANY = examples({"prompt": f"prompt {i}", "completion": f"answer {i}"} for i in range(2000))


def table(folder: Path, name: str, rows: list[tuple[str, str]]) -> str:
    path = folder / name
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    return str(path)


def rows(num: int, labels: str = "xy") -> list[tuple[str, str]]:
    return [(f"text {i}", labels[i % len(labels)]) for i in range(num)]


def classification(train: str, **spec: Any) -> DataSpec:
    return DataSpec(train=train, format="classification", **spec)


def test_exactly_the_asked_share_is_set_aside() -> None:
    kept, aside = set_aside(MANY, 0.1, seed=0)
    assert (len(kept), len(aside)) == (1800, 200)


@pytest.mark.parametrize(("num", "expected"), [(2, 1), (3, 1), (11, 5), (80, 40), (100, 50), (300, 50), (700, 70)])
def test_fifty_rows_are_set_aside_where_there_are_twice_as_many(num: int, expected: int) -> None:
    assert len(set_aside(MANY[:num], 0.1, seed=0)[1]) == expected


def test_a_larger_share_holds_a_smaller_one() -> None:
    small, large = (set(set_aside(MANY, share, seed=0)[1]) for share in (0.1, 0.2))
    assert small < large


def test_one_question_with_most_of_the_rows_is_not_set_aside() -> None:
    rows = examples({"prompt": p, "completion": str(n)} for n, p in enumerate("aaaaaaaab"))
    assert [e.prompt for e in set_aside(rows, 0.5, seed=0)[1]] == ["b"]


def test_the_order_of_the_file_changes_nothing() -> None:
    shuffled = random.Random(0).sample(MANY, len(MANY))
    assert set(set_aside(shuffled, 0.1, seed=0)[1]) == set(set_aside(MANY, 0.1, seed=0)[1])


def test_another_seed_sets_others_aside() -> None:
    assert set(set_aside(MANY, 0.1, seed=0)[1]) != set(set_aside(MANY, 0.1, seed=1)[1])


def test_equal_prompts_stay_on_the_same_side() -> None:
    twice = examples({"prompt": e.prompt, "completion": c} for e in MANY for c in "ab")
    kept, aside = set_aside(twice, 0.1, seed=0)
    assert not {e.prompt for e in kept} & {e.prompt for e in aside}


def test_a_small_file_gives_at_least_one_prompt_and_all_of_its_equals() -> None:
    few = examples({"prompt": p, "completion": c} for p in ("one", "two", "three") for c in "ab")
    kept, aside = set_aside(few, 0.001, seed=0)
    assert (len(kept), len(aside), len({e.prompt for e in aside})) == (4, 2, 1)


def test_chats_that_begin_alike_stay_on_the_same_side() -> None:
    chats = examples(
        (
            {"messages": [{"role": "user", "content": f"question {i}"}, {"role": "assistant", "content": answer}]}
            for i in range(200)
            for answer in ("yes", "no")
        ),
        format="messages",
    )
    kept, aside = set_aside(chats, 0.2, seed=0)
    assert not {e.messages[0] for e in kept} & {e.messages[0] for e in aside}


def test_options_are_the_labels_of_all_splits(tmp_path: Path) -> None:
    spec = classification(
        table(tmp_path, "a.csv", rows(9, "ab")),
        validation=table(tmp_path, "b.csv", [("new", "c")]),
        test=table(tmp_path, "c.csv", [("newer", "d")]),
    )
    splits = read_splits(spec)
    for example in (*splits.train, *splits.validation, *splits.test):
        assert example.options == (" a", " b", " c", " d")


def test_named_files_are_taken_whole(tmp_path: Path) -> None:
    spec = classification(
        table(tmp_path, "a.csv", rows(50)), validation=table(tmp_path, "b.csv", [("one", "x"), ("two", "y")])
    )
    splits = read_splits(spec)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (50, 2, 0)


def test_a_limit_takes_a_fair_part_of_a_sorted_file(tmp_path: Path) -> None:
    source = table(tmp_path, "a.csv", sorted(rows(400), key=lambda row: row[1]))
    labels = [e.completion for e in read_splits(classification(source, limit=100)).train]
    assert len(labels) == 100
    assert 30 < labels.count(" x") < 70


def test_a_task_with_one_label_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="every row has the same label ' x'"):
        read_splits(classification(table(tmp_path, "a.csv", rows(20, "x"))))


def test_a_file_too_small_to_validate_with_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="too few rows"):
        read_splits(classification(table(tmp_path, "a.csv", rows(1))))


def test_rows_left_out_are_reported_for_every_split(tmp_path: Path) -> None:
    broken = [(f"text {i}", "x" if i else " ") for i in range(200)]
    spec = classification(
        table(tmp_path, "a.csv", rows(50)),
        validation=table(tmp_path, "b.csv", broken),
        test=table(tmp_path, "c.csv", broken),
    )
    assert [c.split("/")[-1] for c in read_splits(spec).skipped] == [
        "b.csv:2: has an empty label",
        "c.csv:2: has an empty label",
    ]


TEMPLATES = ("Q: {question}\nA:", "{question}", "{context}\n{question}")


def qa(folder: Path) -> str:
    path = folder / "qa.jsonl"
    found = [{"id": i, "question": f"q {i % 150}", "context": f"c {i}", "answer": f"a {i}"} for i in range(300)]
    path.write_text("\n".join(map(json.dumps, found)))
    return str(path)


def test_a_template_changes_neither_split_nor_order(tmp_path: Path) -> None:
    specs = [replace(PAIRS, train=qa(tmp_path), template=t, templates=TEMPLATES) for t in TEMPLATES]
    first, *others = [read_splits(spec) for spec in specs]
    assert len({example.prompt for example in first.validation}) > 5
    for other in others:
        assert [e.row for e in other.validation] == [e.row for e in first.validation]
        assert [e.row for e in other.train] == [e.row for e in first.train]


@pytest.mark.parametrize("template", TEMPLATES)
def test_no_prompt_of_any_swept_template_is_on_both_sides(tmp_path: Path, template: str) -> None:
    splits = read_splits(replace(PAIRS, train=qa(tmp_path), template=template, templates=TEMPLATES))
    assert not {e.prompt for e in splits.train} & {e.prompt for e in splits.validation}


def test_a_limit_cuts_training_rows_only(tmp_path: Path) -> None:
    """The options stay too: a label that a limit leaves without training rows can still be the answer."""
    source = table(tmp_path, "a.csv", rows(400, "uvwxyz"))
    whole, small = (read_splits(classification(source, limit=limit)) for limit in (None, 3))
    assert len(small.train) == 3 and small.validation == whole.validation
    assert small.train[0].options == whole.train[0].options


def test_equal_questions_with_other_answers_keep_their_order_whatever_the_order_of_the_file(tmp_path: Path) -> None:
    pairs = [(f"text {i % 9}", f"label {i}") for i in range(90)]
    sources = [table(tmp_path, f"{n}.csv", random.Random(n).sample(pairs, 90)) for n in range(2)]
    first, second = (
        [e.row for e in read_splits(classification(source, validation_share=0.5)).validation] for source in sources
    )
    assert first == second and len(set(first)) == len(first) >= 20


def test_a_missing_column_asks_what_an_empty_one_asks() -> None:
    spec = replace(PAIRS, format="alpaca")
    names = [question_name({"instruction": "a", **more}, spec) for more in ({}, {"input": None}, {"input": ""})]
    assert len(set(names)) == 1 and names[0] != question_name({"instruction": "a", "input": "b"}, spec)


def test_rows_are_named_by_all_that_they_hold() -> None:
    rows = [{"a": 1, "b": 2}, {"a": 1, "b": 3}, {"a": 1, "c": 2}, {"b": 2, "a": 1}]
    assert [row_name(row) == row_name(rows[0]) for row in rows] == [True, False, False, True]
