"""RMS norms in few passes have the values and gradients of transformers."""

from typing import Any

import pytest
import torch

from lorasweep.models import rms_norm
from tests.tiny import config_of


def model_of(kind: str) -> Any:
    from transformers import AutoModelForCausalLM, Gemma2Config

    config = config_of(kind) if kind != "gemma2" else Gemma2Config(**SMALL)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            torch.nn.init.normal_(module.weight, 1.0, 0.2)
    return model.requires_grad_(False)


SMALL: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}


@pytest.mark.parametrize(("kind", "num"), [("llama", 5), ("qwen2", 5), ("gpt2", 0), ("gemma2", 0)])
def test_only_norms_with_the_same_result_are_exchanged(kind: str, num: int) -> None:
    assert rms_norm.replace_norms(model_of(kind)) == num


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_and_gradients_are_those_of_the_layer(dtype: torch.dtype) -> None:
    norm: Any = model_of("llama").to(dtype).model.norm
    x = torch.randn(3, 7, 64, generator=torch.Generator().manual_seed(1)).to(dtype)
    weight = torch.randn(3, 7, 64, generator=torch.Generator().manual_seed(2)).to(dtype)
    expected = run(norm, x, weight)
    assert rms_norm.replace_norms(norm) == 1
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    for found, wanted in zip(run(norm, x, weight), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


def run(norm: Any, x: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the layer's output, and the gradient of its weighted sum for x."""
    x = x.clone().requires_grad_()
    y = norm(x)
    (y * weight).sum().backward()
    assert x.grad is not None
    return y.detach(), x.grad


def test_a_norm_that_does_not_multiply_with_its_weight_is_left_alone() -> None:
    class UnweightedRMSNorm(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.variance_epsilon = torch.nn.Parameter(torch.ones(8), requires_grad=False), 1e-6

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon)

    norm = UnweightedRMSNorm()
    assert rms_norm.replace_norms(norm) == 0 and torch.equal(norm.weight, torch.ones(8))
