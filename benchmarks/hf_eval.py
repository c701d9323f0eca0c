"""The baseline's evaluation: a Hugging Face model's accuracy over options, loss, ROUGE-L and probes.

As a competent user writes it at best: batches sorted by length, no gradients, logits where they are needed, prompts
read once for all their options, greedy `generate` over left-padded batches with a cache.
"""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import torch
from rouge_score.rouge_scorer import RougeScorer

from benchmarks.hf_data import IGNORED, Row, right_padded

# Rows of a pass: the fastest of 64 to 4096 on two cores.
SCORE_ROWS = 128
FEWEST_PROMPTS = 8  # however many options each has
GENERATE_ROWS = 64


def score_options(model: Any, rows: Sequence[Row], pad_id: int) -> dict[str, float]:
    """Return accuracy (the likeliest option is the answer) and loss of the right completion, nats per token."""
    logprobs = option_logprobs(model, rows, pad_id)
    right = [scores[row.target] for row, scores in zip(rows, logprobs, strict=True)]
    metrics = {"loss": -sum(right) / sum(len(row.completion) for row in rows)}
    if all(len(row.options) > 1 for row in rows):
        metrics["accuracy"] = fmean(s.index(max(s)) == row.target for row, s in zip(rows, logprobs, strict=True))
    return metrics


@torch.no_grad()
def option_logprobs(model: Any, rows: Sequence[Row], pad_id: int) -> list[list[float]]:
    """Return the summed log-probability of every option of every row, longest rows first."""
    model.eval()
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].prompt) + len(rows[i].completion), reverse=True)
    most_options = max(len(row.options) for row in rows)
    score = _shared_prompts if most_options > 1 else _single_options
    size = max(FEWEST_PROMPTS, SCORE_ROWS // most_options)
    found: list[list[float]] = [[]] * len(rows)
    for start in range(0, len(order), size):
        batch = order[start : start + size]
        for i, sums in zip(batch, score(model, [rows[i] for i in batch], pad_id), strict=True):
            found[i] = sums
    return found


def _single_options(model: Any, rows: Sequence[Row], pad_id: int) -> list[list[float]]:
    """Score one completion per row: a plain pass, without the logits before the first completion begins."""
    fed = right_padded([(row.prompt + row.completion)[:-1] for row in rows], pad_id).to(model.device)
    labels = right_padded([[IGNORED] * (len(row.prompt) - 1) + row.completion for row in rows], IGNORED)
    kept = fed.shape[1] - min(len(row.prompt) for row in rows) + 1
    logits = model(input_ids=fed, logits_to_keep=kept, use_cache=False).logits
    return [[float(value)] for value in _sums(logits, labels[:, -kept:])]


def _shared_prompts(model: Any, rows: Sequence[Row], pad_id: int) -> list[list[float]]:
    """Score many options per row: a prompt is read once, and its options go on from its cache.

    Few people write this (the usual harness reads the prompt once per option), but it is several times faster.
    """
    owner = torch.tensor([i for i, row in enumerate(rows) for _ in row.options], device=model.device)
    options = [option for row in rows for option in row.options]
    width = max(len(row.prompt) for row in rows)
    prompts = torch.tensor([[pad_id] * (width - len(row.prompt)) + row.prompt for row in rows], device=model.device)
    lengths = torch.tensor([[len(row.prompt)] for row in rows], device=model.device)
    column = torch.arange(width, device=model.device)
    mask = (column >= width - lengths).long()
    places = (column - (width - lengths)).clamp(min=0)
    read = model(input_ids=prompts, attention_mask=mask, position_ids=places, use_cache=True, logits_to_keep=1)
    labels = right_padded(options, IGNORED).to(model.device)
    sums = _sums(read.logits[owner], labels[:, :1])
    if labels.shape[1] > 1:  # the last token is predicted, never fed
        read.past_key_values.batch_select_indices(owner)
        fed = right_padded([option[:-1] for option in options], pad_id).to(model.device)
        logits = model(
            input_ids=fed,
            attention_mask=torch.cat([mask[owner], torch.ones_like(fed)], dim=1),
            position_ids=lengths[owner] + torch.arange(fed.shape[1], device=model.device),
            past_key_values=read.past_key_values,
        ).logits
        sums = sums + _sums(logits, labels[:, 1:])
    return [piece.tolist() for piece in torch.split(sums, [len(row.options) for row in rows])]


def _sums(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return each row's summed log-probability of its labels."""
    places = labels.to(logits.device) != IGNORED
    nats = torch.nn.functional.cross_entropy(logits[places].float(), labels[places].to(logits.device), reduction="none")
    sums = torch.zeros(labels.shape, dtype=torch.float64, device=logits.device)
    sums[places] = -nats.double()
    return sums.sum(dim=1)


def score_texts(model: Any, tokenizer: Any, rows: Sequence[Row], max_new_tokens: int) -> dict[str, float]:
    """Return ROUGE-L of what the model writes."""
    texts = write(model, tokenizer, rows, max_new_tokens)
    scorer = RougeScorer(["rougeL"])
    scores = [scorer.score(row.reference, text)["rougeL"].fmeasure for row, text in zip(rows, texts, strict=True)]
    return {"rougeL": fmean(scores)}


@torch.no_grad()
def write(model: Any, tokenizer: Any, rows: Sequence[Row], max_new_tokens: int) -> list[str]:
    """Return each row's likeliest continuation; no label is cut short."""
    model.eval()
    longest = max(len(option) for row in rows for option in row.options) if len(rows[0].options) > 1 else 0
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].prompt), reverse=True)
    texts = [""] * len(rows)
    for start in range(0, len(order), GENERATE_ROWS):
        batch = order[start : start + GENERATE_ROWS]
        prompts = tokenizer.pad(
            {"input_ids": [rows[i].prompt for i in batch]}, padding_side="left", return_tensors="pt"
        )
        out = model.generate(
            **prompts.to(model.device),
            max_new_tokens=max(max_new_tokens, longest),
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
        )
        answers = tokenizer.batch_decode(out[:, prompts["input_ids"].shape[1] :], skip_special_tokens=True)
        for i, answer in zip(batch, answers, strict=True):
            texts[i] = answer
    return texts


def score_probe(model: Any, rows: Sequence[Row], metric: str, pad_id: int) -> float:
    """Return a probe's accuracy, or its loss averaged over examples."""
    if metric == "accuracy":
        return score_options(model, rows, pad_id)["accuracy"]
    logprobs = option_logprobs(model, rows, pad_id)
    return fmean(-scores[row.target] / len(row.completion) for row, scores in zip(rows, logprobs, strict=True))
