"""Rotary embeddings in few operations have the values and gradients of transformers."""

from functools import partial
from typing import Any

import pytest
import torch
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from lorasweep.models import rotary
from tests.test_norms import model_of


@pytest.mark.parametrize(("kind", "num"), [("llama", 2), ("qwen2", 2), ("gemma2", 2), ("gpt2", 0)])
def test_layers_that_call_the_usual_function_call_the_faster_one(kind: str, num: int) -> None:
    assert rotary.replace_rotary(model_of(kind)) == num


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dim", [1, 2])
def test_values_and_gradients_are_those_of_transformers(dtype: torch.dtype, dim: int) -> None:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    q, k, cos, sin = draw(2, 4, 4, 8), draw(2, 4, 4, 8), draw(2, 4, 8), draw(2, 4, 8)
    weights = draw(2, 4, 4, 8), draw(2, 4, 4, 8)
    found = []
    functions: tuple[Any, ...] = (partial(rotary.rotate, apply_rotary_pos_emb), apply_rotary_pos_emb)
    for rotate in functions:
        leaves = [x.clone().requires_grad_() for x in (q, k)]
        outputs = rotate(*leaves, cos, sin, unsqueeze_dim=dim)
        found.append([*outputs, *torch.autograd.grad(outputs, leaves, weights)])
    tolerance = 1e-6 if dtype == torch.float32 else 0.05
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma2"])
def test_a_model_has_the_same_logits_as_before(kind: str) -> None:
    model: Any = model_of(kind)
    ids = torch.arange(5, 17)[None]
    expected = model(ids).logits
    rotary.replace_rotary(model)
    torch.testing.assert_close(model(ids).logits, expected, rtol=1e-5, atol=1e-5)


def test_another_function_is_kept() -> None:
    def interleaved(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> tuple[torch.Tensor, ...]:
        def half(x: torch.Tensor) -> torch.Tensor:
            return torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)

        return tuple(x * cos.unsqueeze(1) + half(x) * sin.unsqueeze(1) for x in (q, k))

    assert not rotary._is_same(interleaved)
    assert rotary._is_same(apply_rotary_pos_emb)


def test_a_function_that_returns_another_type_is_kept() -> None:
    """OLMo's angles are in fp32, and it casts the result to the type of its input."""

    def cast_back(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(x.to(q.dtype) for x in apply_rotary_pos_emb(q, k, cos, sin))

    assert not rotary._is_same(cast_back)
