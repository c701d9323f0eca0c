"""Rows of the usual layouts become prompts and completions."""

from typing import Any

import pytest

from lorasweep.core.errors import DataError
from lorasweep.core.spec import DataSpec, ProbeSpec
from lorasweep.data.formats import Example, multiple_choice, read_examples
from lorasweep.data.source import Rows, SourceRow


def read(*rows: dict[str, Any], **spec: Any) -> list[Example]:
    source = Rows(tuple(SourceRow(f"a.jsonl:{i}", row) for i, row in enumerate(rows, 1)))
    return read_examples(source, DataSpec(train="a.jsonl", **spec))[0]


def refused(row: dict[str, Any], **spec: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(row, **spec)
    return str(caught.value)


def test_alpaca_has_two_prompts() -> None:
    rows: list[dict[str, Any]] = [
        {"instruction": "Add.", "input": "1 2", "output": "3"},
        {"instruction": "Hi.", "input": None, "output": "Ho."},
    ]
    with_input, without = read(*rows, format="alpaca")
    assert with_input.prompt.endswith("### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:\n")
    assert without.prompt.endswith("### Instruction:\nHi.\n\n### Response:\n")
    assert (with_input.completion, without.completion) == ("3", "Ho.")


def test_alpaca_without_its_preamble() -> None:
    [example] = read({"instruction": "Hi.", "output": "Ho."}, format="alpaca", template="plain")
    assert example.prompt == "### Instruction:\nHi.\n\n### Response:\n"


@pytest.mark.parametrize("given", [{}, {"input": ""}, {"input": None}])
def test_a_template_of_ones_own_may_name_an_input_that_is_empty(given: dict[str, Any]) -> None:
    [example] = read(
        {"instruction": "Hi.", "output": "Ho.", **given}, format="alpaca", template="{instruction}|{input}:"
    )
    assert example.prompt == "Hi.|:"


def test_prompt_and_completion_are_taken_word_for_word() -> None:
    [example] = read({"question": "2 + 2 =", "answer": " 4"}, format="prompt_completion")
    assert (example.prompt, example.completion) == ("2 + 2 =", " 4")


@pytest.mark.parametrize(("template", "completion"), [("Q: {prompt}\nA:", " 4"), ("Q: {prompt}\nA:\n", "4")])
def test_an_answer_keeps_its_leading_space_with_the_word(template: str, completion: str) -> None:
    row = {"prompt": "2 + 2", "completion": "4", "options": ["4", "5"]}
    [example] = read(row, format="prompt_completion", template=template)
    assert example.completion == completion
    assert example.options == (completion, completion.replace("4", "5"))


def test_a_shells_backslash_n_is_a_line_break() -> None:
    [example] = read({"prompt": "x", "completion": "y"}, format="prompt_completion", template=r"{prompt}\n")
    assert example.prompt == "x\n"


def test_a_completion_must_be_one_of_its_options() -> None:
    row = {"prompt": "x", "completion": "c", "options": ["a", "b"]}
    assert "a.jsonl:1: completion 'c' is not one of its options ['a', 'b']" in refused(row, format="prompt_completion")


def test_options_must_be_a_list() -> None:
    row = {"prompt": "x", "completion": "a", "options": "a|b"}
    assert "'options' must be a list" in refused(row, format="prompt_completion")


def test_a_classified_text_and_its_label() -> None:
    [example] = read({"text": "Where is it?", "label": "delivery "}, format="classification")
    assert (example.prompt, example.completion) == ("Text: Where is it?\nLabel:", " delivery")


def test_columns_and_template_of_ones_own() -> None:
    row = {"title": "Hm", "body": "Where?", "kind": 3}
    spec = {"text_column": "body", "label_column": "kind", "template": "{title}: {text} ({body})\n"}
    [example] = read(row, format="classification", **spec)
    assert (example.prompt, example.completion) == ("Hm: Where? (Where?)\n", "3")


@pytest.mark.parametrize("template", ["no column", "{} and {}", "{text", "{nowhere}"])
def test_a_template_that_cannot_be_filled_is_refused(template: str) -> None:
    assert "a.jsonl:1:" in refused({"text": "x", "label": "y"}, format="classification", template=template)


def test_an_empty_label_is_malformed() -> None:
    assert "has an empty label" in refused({"text": "x", "label": " "}, format="classification")


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]},
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]},
    ],
)
def test_chats_of_both_conventions_are_the_same(row: dict[str, Any]) -> None:
    [example] = read(row, format="messages")
    assert example.messages == (("user", "Hi"), ("assistant", "Ho"))
    assert example.completion == "Ho"


def test_what_follows_the_last_answer_is_cut() -> None:
    turns = [{"role": r, "content": r} for r in ("user", "assistant", "user")]
    assert len(read({"messages": turns}, format="messages")[0].messages) == 2


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": []}, "no list of 'messages'"),
        ({"messages": [{"role": "user", "content": "x"}]}, "no assistant turn"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "the role 'robot'"),
        ({"messages": ["x"]}, "a turn must be an object"),
        ({"messages": [{"role": "assistant", "content": None}]}, "has no 'content'"),
    ],
)
def test_a_chat_that_teaches_nothing_is_malformed(row: dict[str, Any], reason: str) -> None:
    assert reason in refused(row, format="messages")


@pytest.mark.parametrize(
    ("format", "column"),
    [("alpaca", "output"), ("prompt_completion", "completion"), ("classification", "text"), ("text", "text")],
)
def test_a_missing_column_is_named_with_those_there_are(format: str, column: str) -> None:
    row = {"instruction": "x", "foo": "y"} if format != "prompt_completion" else {"prompt": "x", "foo": "y"}
    text = refused(row, format=format)
    assert f"a.jsonl:1: has no {column!r}; it has" in text
    assert "'foo'" in text


def test_few_rows_without_their_columns_are_left_out_and_reported() -> None:
    rows = [{"text": str(i)} for i in range(150)] + [{"txt": "x"}]
    source = Rows(tuple(SourceRow(f"a:{i}", row) for i, row in enumerate(rows)))
    examples, skipped = read_examples(source, ProbeSpec(name="p", path="a", format="text", metric="loss"))
    assert len(examples) == 150
    assert skipped == ["a:150: has no 'text'; it has 'txt'"]


CHOICE = DataSpec(train="a.jsonl", format="multiple_choice")


@pytest.mark.parametrize("answer", ["oxygen", 1, "1", " oxygen "])
def test_a_multiple_choice_row_has_options_of_its_own(answer: object) -> None:
    row = {"prompt": "Which gas do we breathe?", "options": ["iron", "oxygen"], "answer": answer}
    found = multiple_choice(row, CHOICE, "a.jsonl:1")
    assert (found.options, found.completion) == ((" iron", " oxygen"), " oxygen")


def test_options_that_are_numbers_are_known_by_their_text_first() -> None:
    row = {"question": "1 + 1 =", "options": [1, 2, 0], "answer": 2}
    assert multiple_choice(row, CHOICE, "a.jsonl:1").completion == " 2"


def test_options_in_a_table_are_json() -> None:
    row = {"prompt": "Sky?", "options": '["blue", "red"]', "answer": "0"}
    assert multiple_choice(row, CHOICE, "a.csv:2").completion == " blue"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"options": ["a", "b"], "answer": 2}, "neither one of its options .* nor an index from 0 to 1"),
        ({"options": ["a", "a"], "answer": 0}, "at least two 'options', all different"),
        ({"options": ["a"], "answer": 0}, "at least two 'options'"),
        ({"options": "a,b", "answer": 0}, "must be a list"),
        ({"options": ["a", "b"]}, "has no 'answer'"),
    ],
)
def test_a_multiple_choice_row_that_cannot_be_scored_is_refused(row: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        multiple_choice({"prompt": "p", **row}, CHOICE, "a.jsonl:1")
