"""Turn the rows of common data formats into examples: a prompt, and the completion to learn.

Each format is one function and one line in `FORMATS`. The functions raise `ValueError` if a row lacks something; the
caller adds file and line.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from lorasweep.core.errors import DataError
from lorasweep.core.spec import DataSpec, ProbeSpec, digest
from lorasweep.data.benchmarks import arc_parts, hellaswag_parts, winogrande_parts
from lorasweep.data.identity import (
    LABEL_KEYS,
    PROMPT_KEYS,
    TEXT_KEYS,
    columns_of,
    first_key,
    question_name,
    row_name,
    text_keys,
)
from lorasweep.data.source import Rows, accept

# The preamble and headings of Stanford Alpaca, with and without input.
ALPACA_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)
ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n"
)
PLAIN_ALPACA_WITH_INPUT = "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
PLAIN_ALPACA = "### Instruction:\n{instruction}\n\n### Response:\n"
CLASSIFICATION = "Text: {text}\nLabel:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A prompt and its completion. Chats keep `messages` until the tokenizer's template is applied.

    `extras` holds, per message, the other fields that a template may use, such as `tool_calls`; `tools` holds the
    functions that the row describes. Both are JSON or empty.
    `option_prompts` holds one prompt per option, if the options differ before the completion.
    `row` and `question` identify the row of the file and its question, whatever the template.
    """

    prompt: str = ""
    completion: str = ""
    options: tuple[str, ...] = ()
    messages: tuple[tuple[str, str], ...] = ()
    extras: tuple[str, ...] = ()
    tools: str = ""
    option_prompts: tuple[str, ...] = ()
    where: str = ""
    row: str = ""
    question: str = ""


Layout = DataSpec | ProbeSpec
TEMPLATED = ("alpaca", "prompt_completion", "classification", "multiple_choice")


def read_examples(rows: Rows, spec: Layout) -> tuple[list[Example], list[str]]:
    """Return the examples, and a sentence for each skipped row.

    Raises:
        DataError: more than 1 % of the rows are malformed.
    """
    make = FORMATS[spec.format]
    examples, bad, reasons = [], [], set()
    for row in rows.rows:
        try:
            examples.append(_named(make(row.values, spec, row.where), row.values, spec))
        except ValueError as error:
            bad.append(f"{row.where}: {error}")
            reasons.add(str(error))
    if len(bad) > 1 and not examples and len(reasons) == 1:
        raise DataError(f"{rows.rows[0].where.rsplit(':', 1)[0]}: every row {reasons.pop()}")
    skipped = accept(rows.rows[0].where.rsplit(":", 1)[0], bad, len(examples)) if rows.rows else ()
    return examples, [*rows.skipped, *skipped]


def _named(example: Example, values: Mapping[str, Any], spec: Layout) -> Example:
    """Add row and question keys. Formats without a template take the question key from the example's content."""
    if not isinstance(spec, DataSpec) or spec.format not in TEMPLATED:
        question = digest(example.messages[:-1] or example.option_prompts or example.prompt or example.completion)
    else:
        question = question_name(values, spec)
    return replace(example, row=row_name(values), question=question)


def _text(values: Mapping[str, Any], key: str) -> str:
    value = values.get(key)
    if value is None:
        raise ValueError(f"has no {key!r}; it has {', '.join(map(repr, values))}")
    if not isinstance(value, str | int | float):
        raise ValueError(f"{key!r} must be text, not {type(value).__name__}")
    return str(value)


def _first(values: Mapping[str, Any], keys: tuple[str, ...]) -> str:
    return _text(values, first_key(values, keys))


def _template(spec: Layout) -> str | None:
    # A shell passes a line break as a backslash and an n.
    return spec.template.replace("\\n", "\n") if isinstance(spec, DataSpec) and spec.template else None


def _fill(template: str, values: Mapping[str, Any]) -> str:
    wanted = columns_of(template)
    if not any(wanted) or not all(wanted):
        raise ValueError(f"data.template {template!r} must name its columns, such as {{prompt}}")
    return template.format(**{name: _text(values, name) for name in wanted})


def alpaca(values: Mapping[str, Any], spec: Layout, where: str) -> Example:
    """`instruction`, `input` (may be empty or absent) and `output`."""
    template = _template(spec)
    has_input = bool(str(values.get("input") or "").strip())
    if template in (None, "alpaca", "plain"):
        with_input, without = (ALPACA_WITH_INPUT, ALPACA) if template != "plain" else PLAIN
        template = with_input if has_input else without
    return Example(
        prompt=_fill(template, {**values, "input": values.get("input") or ""}),
        completion=_text(values, "output"),
        where=where,
    )


PLAIN = (PLAIN_ALPACA_WITH_INPUT, PLAIN_ALPACA)

COMPLETION_KEYS = ("completion", "answer", "output", "response")


def prompt_completion(values: Mapping[str, Any], spec: Layout, where: str) -> Example:
    """`prompt` and `completion` (or question and answer), verbatim unless a template is set; `options` if present."""
    column = spec.label_column if isinstance(spec, DataSpec) else None
    completion = _text(values, column) if column else _first(values, COMPLETION_KEYS)
    template = _template(spec)
    prompt = _fill(template, values) if template else _first(values, PROMPT_KEYS)
    space = _space(template) if template else ""
    completion = f"{space}{completion}"
    options = tuple(f"{space}{o}" for o in _options(values))
    if options and completion not in options:
        raise ValueError(f"completion {completion!r} is not one of its options {list(options)}")
    return Example(prompt=prompt, completion=completion, options=options, where=where)


def _space(template: str) -> str:
    """Return the separator of prompt and answer: byte-pair tokenizers keep a leading space with its word."""
    return "" if template[-1:].isspace() else " "


def _options(values: Mapping[str, Any]) -> list[Any]:
    options = values.get("options") or []
    if not isinstance(options, list):
        raise ValueError(f"'options' must be a list of texts, not {options!r}")
    return options


def multiple_choice(values: Mapping[str, Any], spec: Layout, where: str) -> Example:
    """`prompt` (or question), the row's `options`, and `answer`: the right option's text, or its index from 0."""
    template = _template(spec)
    prompt = _fill(template, values) if template else _first(values, PROMPT_KEYS)
    texts = [str(option).strip() for option in _options({**values, "options": _listed(values.get("options"))})]
    if len(set(texts)) < max(2, len(texts)):
        raise ValueError(f"needs at least two 'options', all different, not {texts!r}")
    options = tuple(f"{_space(prompt)}{text}" for text in texts)
    return Example(prompt=prompt, completion=options[_place(values, texts)], options=options, where=where)


def _place(values: Mapping[str, Any], options: list[str]) -> int:
    answer = _text(values, "answer").strip()
    if answer in options:  # before trying it as an index: options may be numbers
        return options.index(answer)
    if answer.isdecimal() and int(answer) < len(options):
        return int(answer)
    raise ValueError(
        f"'answer' {answer!r} is neither one of its options {options!r} nor an index from 0 to {len(options) - 1}"
    )


def _listed(value: Any) -> Any:
    """Return the list that a table cell holds as JSON."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except json.JSONDecodeError:
        return value


def classification(values: Mapping[str, Any], spec: Layout, where: str) -> Example:
    """A text and its label. Its options are all labels; they are added when every split has been read."""
    data = spec if isinstance(spec, DataSpec) else None
    label_keys = (data.label_column,) if data and data.label_column else LABEL_KEYS
    text = _column(values, text_keys(data) if data else TEXT_KEYS, "text")
    label = _column(values, label_keys, "label")
    if not label.strip():
        raise ValueError("has an empty label")
    template = _template(spec) or CLASSIFICATION
    prompt = _fill(template, {**values, "text": text})
    return Example(prompt=prompt, completion=f"{_space(template)}{label.strip()}", where=where)


def _column(values: Mapping[str, Any], keys: tuple[str, ...], kind: str) -> str:
    """Return the first of these columns; if the row has none, name the setting that selects the column."""
    if not set(keys) & set(values):
        close = next((match for key in keys for match in get_close_matches(key, map(str, values), n=1)), None)
        wanted = f"data.{kind}_column={close or 'NAME'}"
        raise ValueError(f"has no {keys[0]!r}; it has {', '.join(map(repr, values))}; set {wanted}")
    return _first(values, keys)


def plain_text(values: Mapping[str, Any], spec: Layout, where: str) -> Example:
    """Text that is learned or scored completely."""
    return Example(completion=_first(values, ("text", "content")), where=where)


ROLES = {"human": "user", "gpt": "assistant", "user": "user", "assistant": "assistant", "system": "system",
         "developer": "system", "tool": "tool", "function": "tool", "observation": "tool"}  # fmt: skip
EXTRAS = ("tool_calls", "tool_call_id", "name", "reasoning_content")


def messages(values: Mapping[str, Any], spec: Layout, where: str) -> Example:
    """OpenAI's `messages` (role, content) or ShareGPT's `conversations` (from, value)."""
    turns = values.get("messages", values.get("conversations"))
    if not isinstance(turns, list) or not turns:
        raise ValueError("has no list of 'messages' or 'conversations'")
    chat = tuple(_turn(turn) for turn in turns)
    while chat and chat[-1][0] != "assistant":
        chat = chat[:-1]
    if not chat:
        raise ValueError("has no assistant turn to learn from")
    extras = tuple(_extra(turn) for turn in turns[: len(chat)])
    tools = values.get("tools")
    return Example(
        messages=chat,
        completion=chat[-1][1],
        where=where,
        extras=extras if any(extras) else (),
        tools=tools if isinstance(tools, str) else json.dumps(tools) if tools else "",
    )


def _extra(turn: Mapping[str, Any]) -> str:
    found = {key: turn[key] for key in EXTRAS if turn.get(key)}
    return json.dumps(found) if found else ""


def _turn(turn: Any) -> tuple[str, str]:
    if not isinstance(turn, Mapping):
        raise ValueError(f"a turn must be an object, not {turn!r}")
    role = str(turn.get("role", turn.get("from")))
    if role not in ROLES:
        raise ValueError(f"has the role {role!r}; known: {', '.join(ROLES)}")
    if turn.get("tool_calls") and turn.get("content") is None:
        return ROLES[role], ""  # the tool calls are the answer
    return ROLES[role], _first(turn, ("content", "value"))


def hellaswag(values: Mapping[str, Any], spec: Layout, where: str) -> Example:
    """HellaSwag (arXiv 1905.07830): `ctx`, `endings` and `label`."""
    prompt, endings, label = hellaswag_parts(values)
    return Example(prompt=prompt, completion=endings[label], options=endings, where=where)


def arc(values: Mapping[str, Any], spec: Layout, where: str) -> Example:
    """ARC (arXiv 1803.05457): `question`, `choices` with `text` and `label`, and `answerKey`."""
    prompt, choices, answer = arc_parts(values)
    return Example(prompt=prompt, completion=choices[answer], options=choices, where=where)


def winogrande(values: Mapping[str, Any], spec: Layout, where: str) -> Example:
    """WinoGrande (arXiv 1907.10641): `sentence` with a blank `_`, `option1`, `option2` and `answer`.

    Partial evaluation: the end of the sentence is scored after each option, not the option itself.
    """
    prompts, ending, answer = winogrande_parts(values)
    return Example(
        prompt=prompts[answer], completion=ending, options=(ending, ending), option_prompts=prompts, where=where
    )


FORMATS: dict[str, Callable[[Mapping[str, Any], Layout, str], Example]] = {
    "alpaca": alpaca,
    "prompt_completion": prompt_completion,
    "classification": classification,
    "multiple_choice": multiple_choice,
    "messages": messages,
    "text": plain_text,
    "hellaswag": hellaswag,
    "arc": arc,
    "winogrande": winogrande,
}
