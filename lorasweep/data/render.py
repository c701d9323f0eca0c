"""Turn examples into token ids and a label mask: only tokens that the model has to write carry loss."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from lorasweep.core.errors import DataError
from lorasweep.data.formats import Example


class Tokenizer(Protocol):
    """The part of a transformers tokenizer that is used here."""

    eos_token_id: int | None
    chat_template: Any

    def __call__(self, text: list[str], *, add_special_tokens: bool) -> Any: ...

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool) -> str: ...

    def apply_chat_template(self, conversation: list[dict[str, Any]], **kwargs: Any) -> Any: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRow:
    """A tokenised example.

    `ids[:prompt_length]` is the prompt; the model writes the rest. `is_label` marks the tokens that carry loss: the
    rest, and in a chat also earlier assistant turns. `options` are the possible completions and `target` the index of
    the right one; `option_prompts` are their prompts if they differ, and `option_bytes` the UTF-8 bytes of their
    texts without surrounding blanks. `row` identifies the row of the file, for every template and tokenizer.
    `num_bytes` counts the UTF-8 bytes of the scored text.
    """

    ids: tuple[int, ...]
    is_label: tuple[bool, ...]
    prompt_length: int
    options: tuple[tuple[int, ...], ...] = ()
    target: int = -1
    reference: str = ""
    prompt: str = ""
    is_truncated: bool = False
    row: str = ""
    num_bytes: int = 0
    option_bytes: tuple[int, ...] = ()
    option_prompts: tuple[tuple[int, ...], ...] = ()

    @property
    def num_labels(self) -> int:
        # The first token is never predicted, so it carries no loss.
        return sum(self.is_label[1:])


Segment = tuple[str, bool]  # text, and whether the model has to write it


def render(examples: Sequence[Example], tokenizer: Tokenizer, max_length: int) -> list[TokenRow]:
    """Return one row of at most `max_length` tokens per example; rows without labels after truncation are left out.

    If a chat template rewrites earlier turns, a chat becomes one row per answer, each rendered with that answer as the
    last turn; the keys of these rows end in `/1`, `/2`, ...

    If prompt and answer are too long together, the middle of the prompt is cut, down to half of `max_length`, so that
    the answer, every option, and both ends of the prompt are kept. Chats with several answers are cut at the end.
    """
    parts_of = [
        part for e in examples for part in (_chats(e, tokenizer) if e.messages else [(e, [(e.completion, True)])])
    ]
    examples, segments = [e for e, _ in parts_of], [parts for _, parts in parts_of]
    texts = {text for parts in segments for text, _ in parts} | {o for e in examples for o in e.options}
    tokens = _tokenize(sorted(texts), tokenizer, special=False)
    prompts = _tokenize(sorted({p for e in examples for p in (e.prompt, *e.option_prompts)}), tokenizer, special=True)
    end = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
    options = _shared_options(examples, tokens, end)
    longest = {texts: max(map(len, coded), default=0) for texts, coded in options.items()}
    rows = []
    for example, parts in zip(examples, segments, strict=True):
        # A chat template writes its own first and last tokens.
        head, tail = ((), ()) if example.messages else (prompts[example.prompt], end)
        coded = [(tokens[text], learn) for text, learn in parts]
        rows.append(_row(example, [(head, False), *coded], tail, longest[example.options], max_length))
    sizes = {e.options: tuple(max(1, len(o.strip().encode())) for o in e.options) for e in examples}
    rows = [
        replace(
            r,
            options=options[e.options],
            option_bytes=sizes[e.options],
            option_prompts=tuple(
                _without_middle(prompts[p], _prompt_limit(longest[e.options], max_length)) for p in e.option_prompts
            ),
            num_bytes=_num_bytes(r, e, tokenizer),
        )
        for r, e in zip(rows, examples, strict=True)
    ]
    return [row for row in rows if row.num_labels]


def _tokenize(texts: list[str], tokenizer: Tokenizer, *, special: bool) -> dict[str, tuple[int, ...]]:
    if not texts:
        return {}
    ids = tokenizer(texts, add_special_tokens=special)["input_ids"]
    # Some tokenizers end every text with an end token; a prompt continues.
    ended = [i[:-1] if special and i and i[-1] == tokenizer.eos_token_id else i for i in ids]
    return {text: tuple(i) for text, i in zip(texts, ended, strict=True)}


Coded = list[tuple[tuple[int, ...], bool]]  # tokens, and whether the model has to write them


def _shortened(parts: Coded, num_answer: int, max_length: int) -> Coded:
    """Return the parts of a row with a single answer; cut the middle of the prompt if the answer would not fit."""
    *given, answer = parts
    if any(is_label for _, is_label in given):
        return parts
    prompt = tuple(token for tokens, _ in given for token in tokens)
    return [(_without_middle(prompt, _prompt_limit(num_answer, max_length)), False), answer]


def _prompt_limit(num_answer: int, max_length: int) -> int:
    """Return the maximum number of prompt tokens: those that the answer leaves, and at least half of the row."""
    return max(max_length - num_answer, max_length // 2)


def _without_middle(prompt: tuple[int, ...], limit: int) -> tuple[int, ...]:
    """Cut the middle of a prompt: its start holds the model's first token, and both ends hold the template's words."""
    if len(prompt) <= limit:
        return prompt
    end = limit // 2
    return (*prompt[: limit - end], *prompt[len(prompt) - end :])


def _row(example: Example, parts: Coded, tail: tuple[int, ...], longest_option: int, max_length: int) -> TokenRow:
    num_whole = sum(len(tokens) for tokens, _ in parts) + len(tail)
    parts = _shortened(parts, max(longest_option, len(parts[-1][0]) + len(tail)), max_length)
    ids: list[int] = []
    is_label: list[bool] = []
    for tokens, learn in parts:
        ids += tokens
        is_label += [learn] * len(tokens)
    last = len(parts[-1][0])
    prompt_length = len(ids) - last
    ids += tail
    is_label += [True] * len(tail)
    return TokenRow(
        ids=tuple(ids[:max_length]),
        is_label=tuple(is_label[:max_length]),
        prompt_length=min(prompt_length, max_length),
        target=_target(example),
        reference=example.completion.strip(),
        prompt=example.prompt or "".join(f"{role}: {text}\n" for role, text in example.messages[:-1]),
        is_truncated=not num_whole == len(ids) <= max_length,
        row=example.row,
    )


def _target(example: Example) -> int:
    """Return the index of the right option, by completion, or by prompt if options differ there; -1 without options."""
    if example.option_prompts:
        return example.option_prompts.index(example.prompt)
    return example.options.index(example.completion) if example.options else -1


def _num_bytes(row: TokenRow, example: Example, tokenizer: Tokenizer) -> int:
    """Return the bytes of the scored text; if the row was cut or has no prompt, those of its scored tokens."""
    if not row.is_truncated and row.prompt_length:
        return len(example.completion.encode())
    scored = list(row.ids[max(1, row.prompt_length) :])
    return len(tokenizer.decode(scored, skip_special_tokens=True).encode())


def _shared_options(
    examples: Sequence[Example], tokens: dict[str, tuple[int, ...]], end: tuple[int, ...]
) -> dict[tuple[str, ...], tuple[tuple[int, ...], ...]]:
    """Return the options as tokens; rows of a classification task share one tuple."""
    return {e.options: tuple(tokens[o] + end for o in e.options) for e in examples}


def _chats(example: Example, tokenizer: Tokenizer) -> list[tuple[Example, list[Segment]]]:
    """Split a templated chat into prompts and assistant turns: in one row, or in one row per answer."""
    if not tokenizer.chat_template:
        raise DataError(
            f"{example.where}: is a chat, but the base's tokenizer has no chat template; use an instruct model, or "
            "data.format=alpaca or prompt_completion"
        )
    places = [i for i, (role, _) in enumerate(example.messages) if role == "assistant"]
    answers = [_answer(example, tokenizer, place) for place in places]
    starts = ["", *(prompt + answer for prompt, answer in answers)]
    if all(prompt.startswith(start) for start, (prompt, _) in zip(starts, answers, strict=False)):
        pairs = zip(starts, answers, strict=False)
        segments = [s for start, (prompt, answer) in pairs for s in ((prompt[len(start) :], False), (answer, True))]
        return [(example, segments)]
    return [
        (_until(example, place, number), [(prompt, False), (answer, True)])
        for number, (place, (prompt, answer)) in enumerate(zip(places, answers, strict=True), 1)
    ]


def _answer(example: Example, tokenizer: Tokenizer, place: int) -> tuple[str, str]:
    """Return the prompt before this answer, and the answer with its end marker, as if it were the last turn."""
    turns = _turns(example)
    prompt = _templated(example, tokenizer, turns[:place], add_generation_prompt=True)
    whole = _templated(example, tokenizer, turns[: place + 1])
    if not whole.startswith(prompt):
        raise DataError(
            f"{example.where}: the base's chat template formats a prompt differently when an answer follows, so prompt "
            "and answer cannot be separated; use another template"
        )
    return prompt, whole[len(prompt) :]


def _turns(example: Example) -> list[dict[str, Any]]:
    extras = example.extras or ("",) * len(example.messages)
    return [
        {"role": role, "content": text, **(json.loads(extra) if extra else {})}
        for (role, text), extra in zip(example.messages, extras, strict=True)
    ]


def _until(example: Example, place: int, number: int) -> Example:
    """Return the chat up to the answer at this place."""
    messages, extras = example.messages[: place + 1], example.extras[: place + 1]
    return replace(example, messages=messages, extras=extras, completion=messages[-1][1], row=f"{example.row}/{number}")


def _templated(example: Example, tokenizer: Tokenizer, turns: list[dict[str, Any]], **options: Any) -> str:
    from jinja2 import TemplateError

    options |= {"tools": json.loads(example.tools)} if example.tools else {}
    try:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, **options))
    except (TemplateError, IndexError) as error:  # templates raise on unknown roles and orders
        reason = str(error).strip() or type(error).__name__
        raise DataError(f"{example.where}: the base's chat template rejects this chat: {reason}") from error
