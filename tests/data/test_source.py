"""Rows of every kind of file, each with its place, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from lorasweep.core.errors import DataError
from lorasweep.data.source import Rows, read_rows, split_source


def write(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_bytes(text.encode())
    return str(path)


def values(rows: Rows) -> list[dict[str, Any]]:
    return [row.values for row in rows.rows]


def jsonl(folder: Path, num_good: int, num_bad: int = 0) -> str:
    lines = ["{oops"] * num_bad + [json.dumps({"text": str(i)}) for i in range(num_good)]
    return write(folder, "rows.jsonl", "\n".join(lines) + "\n")


def test_json_lines_know_their_line(tmp_path: Path) -> None:
    source = write(tmp_path, "a.jsonl", '{"a": 1}\n\n{"a": 2}\n')
    rows = read_rows(source).rows
    assert [(r.where, r.values) for r in rows] == [(f"{source}:1", {"a": 1}), (f"{source}:3", {"a": 2})]


@pytest.mark.parametrize("text", ['[{"a": 1}, {"a": 2}]', '{"data": [{"a": 1}, {"a": 2}]}', '{"a": 1}\n{"a": 2}\n'])
def test_json_is_a_list_of_rows_however_it_is_wrapped(tmp_path: Path, text: str) -> None:
    assert values(read_rows(write(tmp_path, "a.json", text))) == [{"a": 1}, {"a": 2}]


def test_a_line_separator_inside_a_json_text_ends_no_row(tmp_path: Path) -> None:
    source = write(tmp_path, "a.jsonl", '{"a": "one\u2028two\x85three"}\r\n{"a": "four"}\r\n')
    assert values(read_rows(source)) == [{"a": "one\u2028two\x85three"}, {"a": "four"}]


def test_csv_keeps_quoted_commas_quotes_and_line_breaks(tmp_path: Path) -> None:
    source = write(tmp_path, "a.csv", 'text,label\n"one, two\nthree",x\n"say ""hi""",y\n')
    rows = read_rows(source).rows
    assert [r.values["text"] for r in rows] == ["one, two\nthree", 'say "hi"']
    assert [r.where.rsplit(":", 1)[1] for r in rows] == ["3", "4"]


@pytest.mark.parametrize(("name", "text"), [("a.csv", "text,label\nhi,x\n"), ("a.jsonl", '{"text": "hi"}\n')])
def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path, name: str, text: str) -> None:
    assert values(read_rows(write(tmp_path, name, "\ufeff" + text)))[0]["text"] == "hi"


def test_tabs_separate_columns_in_tsv_files(tmp_path: Path) -> None:
    assert values(read_rows(write(tmp_path, "a.tsv", "text\tlabel\none, two\tx\n"))) == [
        {"text": "one, two", "label": "x"}
    ]


def test_blank_lines_part_the_blocks_of_a_text(tmp_path: Path) -> None:
    rows = values(read_rows(write(tmp_path, "a.txt", "one\ntwo\n\n \n\nthree\n")))
    assert [r["text"].strip() for r in rows] == ["one\ntwo", "three"]


@pytest.mark.parametrize(
    ("part", "expected"),
    [("[:5]", range(5)), ("[:10%]", range(2)), ("[2:4]", range(2, 4)), ("[50%:]", range(10, 20)), ("", range(20))],
)
def test_a_slice_takes_a_part(tmp_path: Path, part: str, expected: range) -> None:
    rows = values(read_rows(jsonl(tmp_path, 20) + part))
    assert [int(r["text"]) for r in rows] == list(expected)


def test_a_slice_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"\[first\]: not a slice; write \[:500\]"):
        read_rows(jsonl(tmp_path, 3) + "[first]")


def test_brackets_inside_a_name_are_no_slice() -> None:
    assert split_source("my [old] rows.csv[:5%]") == ("my [old] rows.csv", ":5%")


def test_few_malformed_rows_are_left_out_and_reported(tmp_path: Path) -> None:
    source = jsonl(tmp_path, 199, 2)
    rows = read_rows(source)
    assert len(rows.rows) == 199
    assert [c.split(": ")[0] for c in rows.skipped] == [f"{source}:1", f"{source}:2"]


def test_many_malformed_rows_are_refused_and_the_first_five_named(tmp_path: Path) -> None:
    source = jsonl(tmp_path, 100, 8)
    with pytest.raises(DataError) as caught:
        read_rows(source)
    text = str(caught.value)
    assert "8 malformed rows" in text
    assert all(f"{source}:{line}: not JSON" in text for line in range(1, 6))
    assert "and 3 more" in text
    assert f"{source}:6:" not in text


def test_a_row_that_is_no_object_is_malformed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r":2: a row must be an object .* not list"):
        read_rows(write(tmp_path, "a.jsonl", '{"a": 1}\n[1]\n'))


def test_a_csv_row_with_too_few_or_many_columns_is_malformed(tmp_path: Path) -> None:
    source = write(tmp_path, "a.csv", "text,label\nhi\nhello, you,x\n")
    with pytest.raises(DataError) as caught:
        read_rows(source)
    assert f"{source}:2: does not have the 2 columns" in str(caught.value)
    assert f"{source}:3: does not have the 2 columns" in str(caught.value)


def test_an_unclosed_quote_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="look for an unclosed quote"):
        read_rows(write(tmp_path, "a.csv", 'text,label\n"hi,x\nthere,y\n'))


def test_broken_json_names_its_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.json:3: not JSON"):
        read_rows(write(tmp_path, "a.json", '[\n{"a": 1},\n{"a" 2}\n]'))


def test_text_that_is_not_utf8_is_refused_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"text,label\ncaf\xe9,x\n")
    with pytest.raises(DataError, match="not UTF-8 text at byte 14"):
        read_rows(str(path))


@pytest.mark.parametrize("text", ["", "\n\n", "text,label\n"])
def test_an_empty_file_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match="holds no rows"):
        read_rows(write(tmp_path, "a.csv", text))


def test_a_missing_file_names_its_neighbours(tmp_path: Path) -> None:
    write(tmp_path, "train.csv", "a\n1\n")
    with pytest.raises(DataError, match=r"trian\.csv: no such file .*; in the same folder: train\.csv"):
        read_rows(str(tmp_path / "trian.csv"))


def test_an_unknown_kind_of_file_is_refused_with_those_that_are_known(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.parquet: unknown file type; convert it to one of \.json"):
        read_rows(write(tmp_path, "a.parquet", "x"))


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_rows(str(tmp_path))


def test_capitals_in_a_suffix_change_nothing(tmp_path: Path) -> None:
    assert values(read_rows(write(tmp_path, "A.CSV", "text\nhi\n"))) == [{"text": "hi"}]


def test_the_data_that_ships_is_found_from_anywhere(in_tmp: Path) -> None:
    assert set(values(read_rows("demo:intents/train.csv[:1]"))[0]) == {"text", "label"}


@pytest.mark.parametrize(
    ("source", "asked"),
    [
        ("org/name", ("org/name", None, "train")),
        ("org/name:test", ("org/name", None, "test")),
        ("org/name:train[:5%]", ("org/name", None, "train[:5%]")),
        ("org/name:config:test[:10]", ("org/name", "config", "test[:10]")),
        ("org/name[:10]", ("org/name", None, "train[:10]")),
    ],
)
def test_a_hub_source_names_config_split_and_slice(
    source: str, asked: tuple[str, str | None, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    calls = []

    def load_dataset(name: str, config: str | None, split: str) -> list[dict[str, str]]:
        calls.append((name, config, split))
        return [{"text": "hi"}]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert read_rows(source).rows[0].where == f"{source}: row 1"
    assert calls == [asked]


def test_an_unknown_hub_data_set_is_an_error_that_shows_how_to_write_one() -> None:
    with pytest.raises(DataError, match=r"nobody/nothing: neither a local file .*; write for example"):
        read_rows("nobody/nothing")
