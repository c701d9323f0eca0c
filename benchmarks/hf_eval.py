"""The baseline's rows and evaluation, written as fast as a competent user could: accuracy, loss and ROUGE-L.

Batches sorted by length, no gradients, logits only at labels, one pass per prompt for all options, greedy `generate`
over left-padded batches with a cache. It imports nothing from lorasweep.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from rouge_score.rouge_scorer import RougeScorer
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

IGNORED = -100  # labels that Hugging Face losses ignore
SCORE_ROWS, FEWEST_PROMPTS = 128, 8  # per pass: the fastest on two cores, and the minimum with many options
GENERATE_ROWS = 64


@dataclass(frozen=True, slots=True)
class Row:
    """A prompt with its continuations: all labels of a classification, otherwise only the completion."""

    prompt: list[int]
    options: list[list[int]]
    target: int
    reference: str

    @property
    def completion(self) -> list[int]:
        return self.options[self.target]


def read_rows(path: Path, tokenizer: Any, max_length: int) -> list[Row]:
    """Read and tokenise a file in two calls of the (fast) tokenizer; rows are cut at `max_length`."""
    raw = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    prompts = tokenizer([r["prompt"] for r in raw])["input_ids"]
    texts = sorted({text for r in raw for text in (r["completion"], *r["options"])})
    tokens = dict(zip(texts, tokenizer(texts, add_special_tokens=False)["input_ids"], strict=True))
    end, rows = tokenizer.eos_token_id, []
    for r, ids in zip(raw, prompts, strict=True):
        prompt = ids[:-1] if ids and ids[-1] == end else ids  # some tokenizers append an end token
        whole = [*prompt, *tokens[r["completion"]], end][:max_length]
        start = min(max(1, len(prompt)), max_length)  # no position predicts the first token of a text without prompt
        options = [[*tokens[o], end] for o in r["options"]] or [whole[start:]]
        target = r["options"].index(r["completion"]) if r["options"] else 0
        rows.append(Row(whole[:start], options, target, r["completion"].strip()))
    return rows


def right_padded(rows: Sequence[Sequence[int]], fill: int) -> torch.Tensor:
    """Return one tensor of rows of different lengths."""
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=fill)


@torch.no_grad()
def score_options(model: Any, rows: Sequence[Row], pad_id: int) -> dict[str, float]:
    """Return the accuracy of the most likely option, and the loss of the correct completion in nats per token."""
    model.eval()
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].prompt) + len(rows[i].completion), reverse=True)
    size = max(FEWEST_PROMPTS, SCORE_ROWS // max(len(row.options) for row in rows))
    found: dict[int, list[float]] = {}
    for start in range(0, len(order), size):
        batch = order[start : start + size]
        found |= zip(batch, _logprobs(model, [rows[i] for i in batch], pad_id), strict=True)
    right = [found[i][row.target] for i, row in enumerate(rows)]
    metrics = {"loss": -sum(right) / sum(len(row.completion) for row in rows)}
    if all(len(row.options) > 1 for row in rows):
        metrics["accuracy"] = fmean(found[i].index(max(found[i])) == row.target for i, row in enumerate(rows))
    return metrics


def _logprobs(model: Any, rows: Sequence[Row], pad_id: int) -> list[list[float]]:
    """Return the log-probability of every option; a prompt is read once, and its options continue from its cache.

    This is rare (the usual harness reads the prompt once per option), but several times faster.
    """
    owner = torch.tensor([i for i, row in enumerate(rows) for _ in row.options], device=model.device)
    options = [option for row in rows for option in row.options]
    width = max(len(row.prompt) for row in rows)
    prompts = torch.tensor([[pad_id] * (width - len(row.prompt)) + row.prompt for row in rows], device=model.device)
    lengths = torch.tensor([[len(row.prompt)] for row in rows], device=model.device)
    places = torch.arange(width, device=model.device) - (width - lengths)
    mask = (places >= 0).long()
    read = model(
        input_ids=prompts, attention_mask=mask, position_ids=places.clamp(min=0), use_cache=True, logits_to_keep=1
    )
    labels = right_padded(options, IGNORED).to(model.device)
    sums = _sums(read.logits[owner], labels[:, :1])
    if labels.shape[1] > 1:  # the last token is predicted, not an input
        read.past_key_values.batch_select_indices(owner)
        fed = right_padded([option[:-1] for option in options], pad_id).to(model.device)
        logits = model(
            input_ids=fed, past_key_values=read.past_key_values,
            attention_mask=torch.cat([mask[owner], torch.ones_like(fed)], dim=1),
            position_ids=lengths[owner] + torch.arange(fed.shape[1], device=model.device),
        ).logits  # fmt: skip
        sums = sums + _sums(logits, labels[:, 1:])
    return [piece.tolist() for piece in torch.split(sums, [len(row.options) for row in rows])]


def _sums(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return each row's summed log-probability of its labels."""
    places, sums = labels != IGNORED, torch.zeros(labels.shape, dtype=torch.float64, device=logits.device)
    sums[places] = -cross_entropy(logits[places].float(), labels[places], reduction="none").double()
    return sums.sum(dim=1)


@torch.no_grad()
def rouge(model: Any, tokenizer: Any, rows: Sequence[Row], max_new_tokens: int) -> float:
    """Return ROUGE-L of greedy continuations; no label is cut off."""
    model.eval()
    longest = max(len(option) for row in rows for option in row.options) if len(rows[0].options) > 1 else 0
    settings = {"max_new_tokens": max(max_new_tokens, longest), "do_sample": False}
    order = sorted(rows, key=lambda row: len(row.prompt), reverse=True)
    scorer, scores = RougeScorer(["rougeL"]), []
    for start in range(0, len(order), GENERATE_ROWS):
        batch = order[start : start + GENERATE_ROWS]
        prompts = tokenizer.pad({"input_ids": [r.prompt for r in batch]}, padding_side="left", return_tensors="pt")
        out = model.generate(**prompts.to(model.device), **settings, pad_token_id=tokenizer.pad_token_id)
        texts = tokenizer.batch_decode(out[:, prompts["input_ids"].shape[1] :], skip_special_tokens=True)
        scores += [scorer.score(r.reference, text)["rougeL"].fmeasure for r, text in zip(batch, texts, strict=True)]
    return fmean(scores)
