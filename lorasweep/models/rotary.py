"""Rotary position embeddings (arXiv 2104.09864) in three operations a tensor instead of six.

A layer's function is replaced only if the result is the same; variants such as interleaved pairs keep their own.
"""

from collections.abc import Callable
from functools import partial
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

NAME = "apply_rotary_pos_emb"  # of transformers' function, which attention layers call
TOLERANCE = 1e-6
TYPES = tuple((states, angles) for states in (torch.float32, torch.bfloat16) for angles in (torch.float32, states))
Rotate = Callable[..., Any]

# B rows, H heads, S tokens, D width of a head


class Rotation(torch.autograd.Function):
    """x cos + rotate_half(x) sin, where rotate_half maps (a, b) to (-b, a). Its transpose maps (a, b) to (b, -a)."""

    @staticmethod
    def forward(ctx: Any, x_BHSD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x_BHSD, cos, sin, sign=1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        half = sin.shape[-1] // 2
        return _rotated(grads[0], cos, sin.roll(half, -1), sign=-1), None, None


def _rotated(x_BHSD: Tensor, cos: Tensor, sin: Tensor, *, sign: int) -> Tensor:
    half = x_BHSD.shape[-1] // 2
    found = x_BHSD * cos
    found[..., :half].addcmul_(x_BHSD[..., half:], sin[..., :half], value=-sign)
    found[..., half:].addcmul_(x_BHSD[..., :half], sin[..., half:], value=sign)
    return found


def rotate(theirs: Rotate, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Return rotated queries and keys, with the arguments of transformers' `apply_rotary_pos_emb`.

    `theirs` is called where only a part of a head is rotated.
    """
    unsqueeze_dim = kwargs.get("unsqueeze_dim", 1)
    if args or kwargs.keys() - {"unsqueeze_dim"} or not q.shape[-1] == k.shape[-1] == cos.shape[-1]:
        return theirs(q, k, cos, sin, *args, **kwargs)
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    return Rotation.apply(q, cos, sin), Rotation.apply(k, cos, sin)  # type: ignore[no-untyped-call]


def replace_rotary(model: nn.Module) -> int:
    """Let the model's attention layers call `rotate`; return how many do."""
    return sum(_replace(module) for module in model.modules() if type(module).__name__.endswith("Attention"))


def _replace(layer: Any) -> bool:
    forward = type(layer).forward
    if not isinstance(forward, FunctionType) or NAME not in forward.__code__.co_names:
        return False
    theirs = forward.__globals__[NAME]
    if not _is_same(theirs):
        return False
    names = {**forward.__globals__, NAME: partial(rotate, theirs)}
    own = FunctionType(forward.__code__, names, forward.__name__, forward.__defaults__, forward.__closure__)
    own.__kwdefaults__ = forward.__kwdefaults__
    layer.forward = MethodType(own, layer)
    return True


def _is_same(theirs: Rotate) -> bool:
    """Compare both on numbers whose halves differ, in every combination of types that a base may have."""
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 4, 3, 8, generator=generator), torch.randn(2, 2, 3, 8, generator=generator)
    cos, sin = torch.randn(2, 3, 8, generator=generator), torch.randn(2, 3, 8, generator=generator)
    try:
        for states, angles in TYPES:
            given = q.to(states), k.to(states), cos.to(angles), sin.to(angles)
            for one, other in zip(theirs(*given), rotate(theirs, *given), strict=True):
                near = TOLERANCE if states == angles == torch.float32 else 0.05
                if one.dtype != other.dtype or not torch.allclose(one, other, rtol=near, atol=near):
                    return False
        return True
    except (TypeError, ValueError, RuntimeError, AttributeError):  # other arguments, or other shapes
        return False
