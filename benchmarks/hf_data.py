"""The baseline's data: JSONL rows of prompt, completion and options become token ids, by any Hugging Face tokenizer."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

IGNORED = -100  # what a Hugging Face model's loss leaves out


@dataclass(frozen=True, slots=True)
class Row:
    """A prompt and what may follow it: all labels of a classification, or else the completion alone."""

    prompt: list[int]
    options: list[list[int]]
    target: int
    reference: str

    @property
    def completion(self) -> list[int]:
        return self.options[self.target]


def read_rows(path: Path, tokenizer: Any, max_length: int) -> list[Row]:
    """Read and tokenise a file, everything in two calls of the (fast) tokenizer; rows are cut at `max_length`."""
    raw = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    texts = sorted({text for r in raw for text in (r["completion"], *r["options"])})
    prompts = [_unended(ids, tokenizer) for ids in tokenizer([r["prompt"] for r in raw])["input_ids"]]
    ends = [tokenizer.eos_token_id]
    tokens = dict(zip(texts, tokenizer(texts, add_special_tokens=False)["input_ids"], strict=True))
    return [
        _row(prompt, tokens[r["completion"]] + ends, [tokens[o] + ends for o in r["options"]], r, max_length)
        for prompt, r in zip(prompts, raw, strict=True)
    ]


def _unended(ids: list[int], tokenizer: Any) -> list[int]:
    """Some tokenizers end every text; a prompt goes on."""
    return ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids


def _row(prompt: list[int], completion: list[int], options: list[list[int]], raw: Any, max_length: int) -> Row:
    ids = (prompt + completion)[:max_length]
    start = min(max(1, len(prompt)), max_length)  # nothing predicts the first token of a text without prompt
    target = raw["options"].index(raw["completion"]) if options else 0
    return Row(ids[:start], options or [ids[start:]], target, raw["completion"].strip())


def training_examples(rows: Iterable[Row], max_length: int) -> list[dict[str, list[int]]]:
    """Return what `Trainer` is given: only the completion carries loss."""
    examples = []
    for row in rows:
        ids = (row.prompt + row.completion)[:max_length]
        labels = [IGNORED] * len(row.prompt) + ids[len(row.prompt) :]
        examples.append({"input_ids": ids, "labels": labels})
    return examples


@dataclass(frozen=True, slots=True)
class Collator:
    """Pad on the right. A causal model never looks there, so it needs no attention mask, and SDPA is faster without."""

    pad_id: int

    def __call__(self, examples: Sequence[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        return {
            "input_ids": right_padded([e["input_ids"] for e in examples], self.pad_id),
            "labels": right_padded([e["labels"] for e in examples], IGNORED),
        }


def right_padded(rows: Sequence[Sequence[int]], fill: int) -> torch.Tensor:
    """Return one tensor of rows of different lengths."""
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=fill)
