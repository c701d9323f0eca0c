"""Train, validation and test: who goes where depends on the example alone."""

import random
from pathlib import Path
from typing import Any

import pytest

from lorasweep.data.formats import Example
from lorasweep.data.splits import read_splits, set_aside
from lorasweep.errors import DataError
from lorasweep.spec import DataSpec

MANY = [Example(prompt=f"prompt {i}", completion=f"answer {i}") for i in range(2000)]


def table(folder: Path, name: str, rows: list[tuple[str, str]]) -> str:
    path = folder / name
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    return str(path)


def rows(num: int, labels: str = "xy") -> list[tuple[str, str]]:
    return [(f"text {i}", labels[i % len(labels)]) for i in range(num)]


def classification(train: str, **spec: Any) -> DataSpec:
    return DataSpec(train=train, format="classification", **spec)


def test_about_the_asked_share_is_set_aside() -> None:
    kept, aside = set_aside(MANY, 0.1, seed=0)
    assert len(kept) + len(aside) == 2000
    assert 150 < len(aside) < 250


def test_the_order_of_the_file_changes_nothing() -> None:
    shuffled = random.Random(0).sample(MANY, len(MANY))
    assert set(set_aside(shuffled, 0.1, seed=0)[1]) == set(set_aside(MANY, 0.1, seed=0)[1])


def test_another_seed_sets_others_aside() -> None:
    assert set(set_aside(MANY, 0.1, seed=0)[1]) != set(set_aside(MANY, 0.1, seed=1)[1])


def test_equal_prompts_stay_on_the_same_side() -> None:
    twice = [Example(prompt=e.prompt, completion=c) for e in MANY for c in "ab"]
    kept, aside = set_aside(twice, 0.1, seed=0)
    assert not {e.prompt for e in kept} & {e.prompt for e in aside}


def test_a_small_file_gives_at_least_one_prompt_and_all_of_its_equals() -> None:
    few = [Example(prompt=p, completion=c) for p in ("one", "two", "three") for c in "ab"]
    kept, aside = set_aside(few, 0.001, seed=0)
    assert (len(kept), len(aside), len({e.prompt for e in aside})) == (4, 2, 1)


def test_chats_that_begin_alike_stay_on_the_same_side() -> None:
    chats = [
        Example(messages=(("user", f"question {i}"), ("assistant", answer)), completion=answer)
        for i in range(200)
        for answer in ("yes", "no")
    ]
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


def test_rows_left_out_are_told_for_every_split(tmp_path: Path) -> None:
    broken = [(f"text {i}", "x" if i else " ") for i in range(200)]
    spec = classification(
        table(tmp_path, "a.csv", rows(50)),
        validation=table(tmp_path, "b.csv", broken),
        test=table(tmp_path, "c.csv", broken),
    )
    assert [c.split("/")[-1] for c in read_splits(spec).complaints] == [
        "b.csv:2: has an empty label",
        "c.csv:2: has an empty label",
    ]
