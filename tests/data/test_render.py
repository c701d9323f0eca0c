"""Only the completion has loss."""

from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from lorasweep.core.errors import DataError
from lorasweep.core.spec import DataSpec
from lorasweep.data.formats import Example, messages
from lorasweep.data.render import TokenRow, render
from tests.tiny import tokenizer

TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    "[{{ m.role }}]{{ m.content }}{% if m.role == 'assistant' %}<eos>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
# Shows only the last question, like templates that hide earlier reasoning.
REWRITES = "{% for m in messages[-2:] %}({{ m.content }}){% endfor %}{% if add_generation_prompt %}:{% endif %}"


@cache
def tokens() -> Any:
    return tokenizer()


@cache
def chatty(template: str = TEMPLATE) -> Any:
    chat = tokenizer()
    chat.chat_template = template
    return chat


def one(example: Example, max_length: int = 100, base: Any = None) -> TokenRow:
    [row] = render([example], base or tokens(), max_length)
    return row


def text(ids: tuple[int, ...]) -> str:
    return str(tokens().decode(ids))


def labels(row: TokenRow) -> str:
    return text(tuple(i for i, is_label in zip(row.ids, row.is_label, strict=True) if is_label))


def test_the_mask_hides_exactly_the_prompt() -> None:
    row = one(Example(prompt="Say hi:", completion=" hi"))
    assert row.is_label == (False,) * 7 + (True,) * 4
    assert (text(row.ids), labels(row)) == ("Say hi: hi<eos>", " hi<eos>")
    assert row.prompt_length == 7


def test_every_answer_ends_with_the_end_token() -> None:
    assert one(Example(prompt="a", completion="b")).ids[-1] == tokens().eos_token_id


def test_a_base_without_end_token_gets_none() -> None:
    base = tokenizer()
    base.eos_token = None
    assert text(one(Example(prompt="a", completion="b"), base=base).ids) == "ab"


def test_a_tokenizer_that_ends_every_text_does_not_end_the_prompt() -> None:
    from tokenizers.processors import TemplateProcessing

    base = tokenizer()
    base.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", 2)]
    )
    assert text(one(Example(prompt="a", completion="b"), base=base).ids) == "<bos>ab<eos>"


def test_the_first_token_of_a_text_is_never_predicted() -> None:
    row = one(Example(completion="abc"))
    assert (row.is_label, row.num_labels) == ((True,) * 4, 3)


def test_options_are_tokens_with_their_end() -> None:
    row = one(Example(prompt="p", completion=" b", options=(" a", " b")))
    assert [text(option) for option in row.options] == [" a<eos>", " b<eos>"]
    assert (row.target, row.reference, row.prompt) == (1, "b", "p")


def test_rows_with_the_same_labels_share_their_options() -> None:
    rows = render([Example(prompt=p, completion=" a", options=(" a", " b")) for p in "xyz"], tokens(), 50)
    assert len({id(row.options) for row in rows}) == 1


def test_a_long_row_is_cut_and_marked() -> None:
    row = one(Example(prompt="pp", completion="abcdef"), max_length=5)
    assert (text(row.ids), row.is_truncated, row.num_labels) == ("ppabc", True, 3)


def test_a_row_that_just_fits_is_not_cut() -> None:
    assert not one(Example(prompt="pp", completion="ab"), max_length=5).is_truncated


def test_a_prompt_that_is_too_long_loses_its_middle_and_the_answer_stays() -> None:
    row = one(Example(prompt="Text: abcdefgh Label:", completion=" yes"), max_length=15)
    assert (text(row.ids), row.is_truncated) == ("Text:abel: yes<eos>", True)
    assert (labels(row), row.prompt_length, len(row.ids)) == (" yes<eos>", 10, 15)


def test_a_prompt_is_cut_alike_whichever_option_is_right() -> None:
    options = (" no", " perhaps")
    rows = [one(Example(prompt="p" * 9 + "q" * 9, completion=o, options=options), max_length=16) for o in options]
    assert {text(row.ids[: row.prompt_length]) for row in rows} == {"ppppqqqq"}
    assert max(row.prompt_length + len(option) for row in rows for option in row.options) <= 17


def test_a_long_answer_leaves_half_of_the_row_to_its_prompt() -> None:
    row = one(Example(prompt="p" * 20, completion="a" * 20), max_length=10)
    assert text(row.ids) == "p" * 5 + "a" * 5


def test_a_chat_of_one_answer_that_is_too_long_keeps_its_answer() -> None:
    chat = Example(messages=(("user", "x" * 60), ("assistant", "fine")), completion="fine")
    row = one(chat, max_length=30, base=chatty())
    assert "fine" in labels(row) and len(row.ids) <= 30 and row.is_truncated


CHAT = Example(
    messages=(("system", "S"), ("user", "one"), ("assistant", "1"), ("user", "two"), ("assistant", "2")),
    completion="2",
    where="a.jsonl:7",
)


def test_a_chat_learns_every_answer_and_no_question() -> None:
    row = one(CHAT, base=chatty())
    assert text(row.ids) == "[system]S[user]one[assistant]1<eos>[user]two[assistant]2<eos>"
    assert labels(row) == "1<eos>2<eos>"


def test_the_prompt_of_a_chat_is_everything_before_its_last_answer() -> None:
    row = one(CHAT, base=chatty())
    assert text(row.ids[row.prompt_length :]) == "2<eos>"
    assert row.reference == "2"


def test_a_chat_begins_and_ends_as_in_its_template() -> None:
    row = one(CHAT, base=chatty())
    assert row.ids.count(tokens().eos_token_id) == 2
    assert tokens().bos_token_id not in row.ids


def test_a_chat_needs_a_template() -> None:
    with pytest.raises(DataError, match=r"a\.jsonl:7: is a chat, but the base's tokenizer has no chat template"):
        one(CHAT)


# As Qwen3's: reasoning before the last question is dropped, and the last answer has some, empty or not.
THINKS = (
    "{% for m in messages %}[{{ m.role }}]{% if m.role == 'assistant' and loop.last %}<t></t>{% endif %}{{ m.content }}"
    "{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}"
    "{% if m.role == 'assistant' %}<eos>{% endif %}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)


def test_a_chat_whose_template_rewrites_earlier_turns_becomes_a_row_per_answer() -> None:
    first, second = render([replace(CHAT, row="r")], chatty(THINKS), 100)
    assert text(first.ids) == "[system]S[user]one[assistant]<t></t>1<eos>"
    assert text(second.ids) == "[system]S[user]one[assistant]1<eos>[user]two[assistant]<t></t>2<eos>"
    assert [labels(row) for row in (first, second)] == ["<t></t>1<eos>", "<t></t>2<eos>"]
    assert [(row.row, row.reference) for row in (first, second)] == [("r/1", "1"), ("r/2", "2")]


def test_a_chat_of_one_answer_stays_one_row_under_any_template() -> None:
    [row] = render([replace(CHAT, messages=CHAT.messages[:3], row="r")], chatty(THINKS), 100)
    assert row.row == "r"


def test_tools_and_their_calls_reach_the_template() -> None:
    calls = [{"function": {"name": "add", "arguments": {"a": 1}}}]
    turns = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": None, "tool_calls": calls},
             {"role": "tool", "content": "2"}, {"role": "assistant", "content": "two"}]  # fmt: skip
    chat = messages({"messages": turns, "tools": [{"name": "add"}]}, DataSpec(train="a", format="messages"), "a:1")
    rows = render([chat], chatty("{% for t in tools %}<{{ t.name }}>{% endfor %}" + THINKS), 200)
    assert "<add>[user]1+1?[assistant]" in text(rows[0].ids) and '"name": "add"' in labels(rows[0])
    assert "[tool]2[assistant]" in text(rows[1].ids) and labels(rows[1]) == "<t></t>two<eos>"


def test_a_template_that_begins_answers_otherwise_than_it_asks_for_them_is_refused() -> None:
    with pytest.raises(DataError, match=r"a\.jsonl:7: the base's chat template formats a prompt differently"):
        one(CHAT, base=chatty(REWRITES))


def test_a_template_that_refuses_a_chat_is_quoted() -> None:
    chat = Example(messages=(("tool", "x"), ("assistant", "y")), completion="y", where="a.jsonl:3")
    with pytest.raises(DataError, match=r"a\.jsonl:3: the base's chat template rejects this chat: no tools"):
        one(chat, base=chatty())


def test_scored_bytes_are_those_of_the_answer() -> None:
    assert one(Example(prompt="p", completion=" é")).num_bytes == 3


def test_a_cut_answer_counts_the_bytes_that_are_left() -> None:
    assert one(Example(prompt="pp", completion="abcdef"), max_length=5).num_bytes == 3


def test_the_first_token_of_a_text_counts_no_bytes() -> None:
    assert one(Example(completion="abc")).num_bytes == 2


def test_options_are_counted_in_bytes_without_the_blanks_around_them() -> None:
    row = one(Example(prompt="p", completion=" é", options=(" é", " abc ", " ")))
    assert row.option_bytes == (2, 3, 1)


def test_prompts_of_options_lose_their_middle_like_rows() -> None:
    prompts = ("abcdef", "ab")
    row = one(Example(prompt="ab", completion="c", options=("c", "c"), option_prompts=prompts), max_length=4)
    assert [text(prompt) for prompt in row.option_prompts] == ["af", "ab"]
    assert row.target == 1
