"""Options that continue copies of a prompt's cache have the scores of separate rows."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from evaluation.choices import option_choices
from evaluation.scoring import TokenSequence
from tests.tiny import VOCAB, config_of


@pytest.fixture(scope="module")
def model() -> Any:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config_of("llama")).eval()  # type: ignore[no-untyped-call]


def draw(length: int, seed: int) -> tuple[int, ...]:
    return tuple(torch.randint(4, VOCAB, (length,), generator=torch.Generator().manual_seed(seed)).tolist())


def questions() -> list[list[TokenSequence]]:
    """Return prompts of three lengths, two of them equal, with unequal numbers of options of one to four tokens."""
    prompts = [draw(5, 0), draw(9, 1), draw(5, 2), draw(2, 3)]
    sizes = [(1, 3, 2), (4, 1), (2, 2, 1), (1,)]
    return [
        [TokenSequence(ids=p + draw(k, 10 * i + k), prompt_length=len(p)) for k in ks]
        for i, (p, ks) in enumerate(zip(prompts, sizes, strict=True))
    ]


@pytest.mark.parametrize("batch_rows", [1, 2, 3, 100])
@pytest.mark.parametrize("copies", [1, 2])
def test_the_cache_gives_what_rows_of_their_own_give(model: Any, batch_rows: int, copies: int) -> None:
    def label_logits(ids: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
        found: Tensor = model(ids, use_cache=False).logits[rows, cols]
        return found

    def cached_logits(ids: Tensor, cache: Any) -> tuple[Tensor, Any]:
        found = model(ids, use_cache=True, past_key_values=copy.copy(cache))
        return found.logits[:, -1], found.past_key_values

    settings: dict[str, Any] = {"batch_rows": batch_rows, "pad_id": 0, "copies": copies}
    apart = option_choices(label_logits, questions(), **settings)
    together = option_choices(label_logits, questions(), cached_logits=cached_logits, **settings)
    assert torch.allclose(together.likelihoods.logprobs, apart.likelihoods.logprobs, atol=1e-4)
    assert torch.equal(together.likelihoods.num_tokens, apart.likelihoods.num_tokens)
    assert together.picks == apart.picks
