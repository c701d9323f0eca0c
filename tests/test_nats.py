"""Training losses computed in chunks equal PyTorch's cross entropy."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lorasweep.core.sizes import CHUNK_LOGITS
from lorasweep.models.token_loss import HeadNats


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gradient(nats_T: Tensor, hidden_TD: Tensor) -> Tensor:
    """Return the gradient of a sum that weighs every label differently."""
    (slope,) = torch.autograd.grad((nats_T * torch.linspace(0.5, 2, len(nats_T))).sum(), hidden_TD)
    return slope


@pytest.mark.parametrize("chunk", [1, 3 * 50, 1 << 21], ids=["one label", "three labels", "all"])
@pytest.mark.parametrize("has_bias", [True, False])
def test_losses_and_gradients_are_those_of_cross_entropy(
    monkeypatch: pytest.MonkeyPatch, chunk: int, has_bias: bool
) -> None:
    monkeypatch.setitem(CHUNK_LOGITS, "cpu", chunk)
    hidden_TD, weight_VD, target_T = drawn(10, 16, seed=0).requires_grad_(), drawn(50, 16, seed=1), torch.arange(10)
    bias = 3 * drawn(50, seed=2) if has_bias else None
    found = HeadNats.apply(hidden_TD, weight_VD, bias, target_T)  # type: ignore[no-untyped-call]
    expected = F.cross_entropy(F.linear(hidden_TD, weight_VD, bias), target_T, reduction="none")
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradient(found, hidden_TD), gradient(expected, hidden_TD))


def test_logits_of_16_bits_are_normalised_in_32() -> None:
    hidden_TD, weight_VD, target_T = (
        drawn(10, 16, seed=0).bfloat16(),
        drawn(50, 16, seed=1).bfloat16(),
        torch.arange(10),
    )
    found = HeadNats.apply(hidden_TD, weight_VD, None, target_T)  # type: ignore[no-untyped-call]
    logits_TV = F.linear(hidden_TD, weight_VD).float()
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, F.cross_entropy(logits_TV, target_T, reduction="none"))
