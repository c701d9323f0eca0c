"""Generate greedy answers to many prompts at once.

Legend: L copies (one per slot), n prompts per copy in a batch, B = L * n rows, S padded length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import groupby

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel

from evaluation.scoring import RowsHook
from evaluation.sizes import rows_per_copy


def greedy(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    pad_id: int,
    eos_ids: Sequence[int],
    max_new_tokens: int,
    batch_rows: int,
    copies: int = 1,
    rows: RowsHook = nullcontext,
    one_length: bool = False,
    use_cache: bool = True,
) -> list[list[list[int]]]:
    """Return new tokens by copy and prompt, without the end token; at most `max_new_tokens` each.

    `batch_rows` limits the rows of a forward pass over all slots (at least one row per slot); rows are ordered slot
    after slot, in equal blocks, longest prompts first. Without `eos_ids` every answer has full length. With
    `one_length` no prompt is padded, and without `use_cache` each token is computed from the whole row: for models
    whose answers would otherwise differ.
    Raises ValueError on an empty prompt: a causal model needs a first token.
    """
    if empty := [index for index, prompt in enumerate(prompts) if not prompt]:
        raise ValueError(f"prompts {empty} hold no tokens; start them with the tokenizer's bos token")
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]), reverse=True)
    settings = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False,
        max_new_tokens=max_new_tokens,
        pad_token_id=pad_id,
        eos_token_id=list(eos_ids),
        use_cache=use_cache,
    )
    answers: list[list[list[int]]] = [[[] for _ in prompts] for _ in range(copies)]
    size = rows_per_copy(batch_rows, copies)
    for batch in _batches(order, size, [len(prompt) for prompt in prompts] if one_length else None):
        with rows(len(batch)), without_generation_defaults(model):
            new_BS = _continue(model, [prompts[index] for index in batch], copies, settings)
        for row, tokens in enumerate(new_BS.tolist()):
            answers[row // len(batch)][batch[row % len(batch)]] = until_any(tokens, eos_ids)
    return answers


def _batches(order: Sequence[int], size: int, lengths: Sequence[int] | None) -> Iterator[Sequence[int]]:
    """Yield batches in this order; with `lengths`, all rows of a batch have equal length."""
    groups = [list(group) for _, group in groupby(order, lengths.__getitem__)] if lengths else [order]
    for group in groups:
        yield from (group[start : start + size] for start in range(0, len(group), size))


def first_logits(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], *, token: int, pad_id: int, copies: int = 1
) -> Tensor:
    """Return logits (B, 2, V) of the first two new tokens, by slot and prompt; the second step uses the cache.

    The first new token is always `token`, so that the second token's logits are comparable between batches.
    """
    ids_nS, mask_nS = pad_left(prompts, pad_id)
    settings = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False, max_new_tokens=2, min_new_tokens=2, pad_token_id=pad_id, return_dict_in_generate=True,
        output_logits=True, use_cache=True,
    )  # fmt: skip

    def force(_ids: Tensor, scores: Tensor) -> Tensor:
        return scores.index_fill(1, torch.tensor([token], device=scores.device), torch.finfo(scores.dtype).max)

    with without_generation_defaults(model):
        found = model.generate(  # type: ignore[operator]
            ids_nS.repeat(copies, 1).to(model.device),
            attention_mask=mask_nS.repeat(copies, 1).to(model.device),
            generation_config=settings,
            logits_processor=LogitsProcessorList([force]),
        )
    return torch.stack(found.logits, dim=1)


@contextmanager
def without_generation_defaults(model: PreTrainedModel) -> Iterator[None]:
    """Replace the model's generation_config by the default, also in wrappers such as PEFT's.

    `generate` merges it with its argument: sampling flags and lengths would then warn on every call, and a repetition
    penalty or beams would silently change the most likely token.
    """
    saved = {module: module.generation_config for module in model.modules() if "generation_config" in vars(module)}
    for module in saved:
        module.generation_config = GenerationConfig()  # type: ignore[no-untyped-call,assignment]
    try:
        yield
    finally:
        for module, config in saved.items():
            module.generation_config = config


def pad_left(prompts: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Return token ids and attention mask (n, S), padded before the prompt, so that all answers start in one column."""
    width = max(map(len, prompts))
    ids = torch.tensor([[*[pad_id] * (width - len(prompt)), *prompt] for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return ids, mask


def until_any(tokens: Sequence[int], stops: Sequence[int]) -> list[int]:
    """Return the tokens before the first stop token; all of them if there is none."""
    end = next((place for place, token in enumerate(tokens) if token in stops), len(tokens))
    return list(tokens[:end])


def _continue(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], copies: int, settings: GenerationConfig
) -> Tensor:
    assert not model.training, "generating in train mode adds dropout noise; call model.eval()"
    ids_nS, mask_nS = pad_left(prompts, settings.pad_token_id)
    generated_BS = model.generate(  # type: ignore[operator]
        ids_nS.repeat(copies, 1).to(model.device),
        attention_mask=mask_nS.repeat(copies, 1).to(model.device),
        generation_config=settings,
    )
    assert isinstance(generated_BS, Tensor)
    return generated_BS[:, ids_nS.shape[1] :]
