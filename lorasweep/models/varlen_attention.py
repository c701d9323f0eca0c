"""Train on rows of any length without padding, and score all options of a question in one row.

Linears, norms and activations work token by token, so the rows of a batch can be packed end to end; only attention must
separate them. Attention and masks are registered with transformers as an implementation. Both read the layout of the
current pass from this module; keyword arguments would not do, because some layers drop them.

A model's own mask function (causal, sliding window, chunks) is evaluated on positions within a row. So a window counts
the tokens of its own row or option, as in a separate row.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

# B rows, S longest row, T tokens of all rows, H heads, E width of a head

NAME = "lorasweep"
EAGER_NAME = "lorasweep_eager"  # for models whose attention has caps or sinks, which SDPA does not support


Attended = tuple[Tensor, Tensor | None]


@dataclass(frozen=True, slots=True)
class Rows:
    """The layout of rows. `place_BS` maps padded rows to tokens (T for padding), `token_T` back to B * S.

    `filled_BS` is `place_BS` with each row's own last token as padding. Another row's token would not do: causal rows
    give padding a weight of zero, but zero times NaN of a diverged row is NaN.
    """

    place_BS: Tensor
    filled_BS: Tensor
    token_T: Tensor

    @staticmethod
    def of(lengths: list[int]) -> "Rows":
        """Return the layout of rows of these lengths, packed end to end."""
        length_B = torch.tensor(lengths)
        column_S = torch.arange(int(length_B.max()))
        is_token_BS = column_S < length_B[:, None]
        place_BS = torch.full(is_token_BS.shape, int(length_B.sum()))
        place_BS[is_token_BS] = torch.arange(int(length_B.sum()))
        filled_BS = place_BS.minimum(length_B.cumsum(0)[:, None] - 1)
        return Rows(place_BS, filled_BS, is_token_BS.flatten().nonzero().flatten())

    def to(self, device: torch.device) -> "Rows":
        """Return the same layout on another device."""
        return Rows(self.place_BS.to(device), self.filled_BS.to(device), self.token_T.to(device))


@dataclass(frozen=True, slots=True)
class Tree:
    """Each token's position in its option, and a mask of the tokens that it may attend to (including itself)."""

    position_BS: Tensor
    mask_BSS: Tensor


_current: Rows | Tree | None = None  # not a context variable: CUDA's backward recomputes activations in other threads


@contextmanager
def laid_out(layout: Rows | Tree | None) -> Iterator[None]:
    """Set the layout of all passes inside this context; backward too, if activations are recomputed."""
    global _current
    before, _current = _current, layout
    try:
        yield
    finally:
        _current = before


class _Pad(torch.autograd.Function):
    """Tokens to padded rows. Each token has one place, so backward gathers and sums nothing."""

    @staticmethod
    def forward(ctx: Any, x_THE: Tensor, rows: Rows) -> Tensor:
        ctx.rows = rows
        return x_THE[rows.filled_BS]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0].flatten(0, 1)[ctx.rows.token_T], None


class _Unpad(torch.autograd.Function):
    """Padded rows to tokens; padding gets a gradient of zero."""

    @staticmethod
    def forward(ctx: Any, y_BSHE: Tensor, rows: Rows) -> Tensor:
        ctx.rows = rows
        return y_BSHE.flatten(0, 1)[rows.token_T]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        grad_THE = grads[0]
        padded = torch.cat([grad_THE, grad_THE.new_zeros(1, *grad_THE.shape[1:])])
        return padded[ctx.rows.place_BS], None


def attention(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Attended:
    """Transformers' SDPA attention, applied within rows if the current batch is flat."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    return _within_rows(sdpa_attention_forward, module, query, key, value, *args, **kwargs)


def eager_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
) -> Attended:
    """The model's own eager attention, applied within rows if the current batch is flat."""
    own = sys.modules[type(module).__module__].eager_attention_forward
    return _within_rows(own, module, query, key, value, *args, **kwargs)


def _within_rows(
    attend: Callable[..., Attended],
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *args: Any,
    **kwargs: Any,
) -> Attended:
    rows = _current
    if not isinstance(rows, Rows):
        return attend(module, query, key, value, *args, **kwargs)
    tokens = (x[0].transpose(0, 1) for x in (query, key, value))
    # On a CPU, the backward pass of fused attention is several times slower in 16 bits than in 32.
    dtype = torch.float32 if query.device.type == "cpu" else query.dtype
    q, k, v = (_Pad.apply(x_THE.to(dtype), rows).transpose(1, 2) for x_THE in tokens)  # type: ignore[no-untyped-call]
    out_BSHE, *_ = attend(module, q, k, v, *args, **kwargs)
    return _Unpad.apply(out_BSHE, rows)[None].to(query.dtype), None  # type: ignore[no-untyped-call]


def mask(**kwargs: Any) -> Tensor | None:
    """Return SDPA's boolean mask for the current layout; None if attention is plainly causal."""
    from transformers.masking_utils import sdpa_mask

    return _mask(sdpa_mask, **kwargs)


def eager_mask(**kwargs: Any) -> Tensor | None:
    """Return the additive mask of attention scores for the current layout."""
    from transformers.masking_utils import eager_mask as own

    found = _mask(own, **kwargs)
    if found is None or found.dtype != torch.bool:
        return found
    least = torch.finfo(kwargs["dtype"]).min
    return torch.zeros(found.shape, dtype=kwargs["dtype"], device=found.device).masked_fill(~found, least)


def _mask(make: Callable[..., Tensor | None], **kwargs: Any) -> Tensor | None:
    if _current is None:
        return make(**kwargs)
    if isinstance(_current, Tree):
        return _tree_mask(_current, kwargs["mask_function"], use_vmap=kwargs.get("use_vmap", False))
    longest = _current.place_BS.shape[1]
    assert kwargs["q_length"] == len(_current.token_T), (kwargs["q_length"], len(_current.token_T))
    inside = {"batch_size": 1, "q_length": longest, "kv_length": longest, "attention_mask": None}
    return make(**{**kwargs, **inside, "q_offset": 0, "kv_offset": 0})


def _tree_mask(tree: Tree, mask_function: Callable[..., Tensor], *, use_vmap: bool) -> Tensor:
    """(B, 1, S, S): tokens that both the model's own mask, at these positions, and the tree allow."""
    if use_vmap:
        raise ValueError("the model's mask function is not elementwise")
    position_BS = tree.position_BS
    row_B111 = torch.arange(len(position_BS), device=position_BS.device).view(-1, 1, 1, 1)
    head = torch.zeros(1, 1, 1, 1, dtype=torch.long, device=position_BS.device)
    allowed_B1SS = mask_function(row_B111, head, position_BS[:, None, :, None], position_BS[:, None, None, :])
    return allowed_B1SS & tree.mask_BSS[:, None]


OWN = {"sdpa": NAME, "eager": EAGER_NAME}


def install(model: nn.Module) -> bool:
    """Switch the model to this attention; return whether it supports that. Callers must test the results."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    name = OWN.get(getattr(model.config, "_attn_implementation", ""))
    if name is None or not getattr(model, "_supports_attention_backend", False):
        return False
    AttentionInterface.register(NAME, attention)
    AttentionInterface.register(EAGER_NAME, eager_attention)
    AttentionMaskInterface.register(NAME, mask)
    AttentionMaskInterface.register(EAGER_NAME, eager_mask)
    model.set_attn_implementation(name)  # type: ignore[operator]
    return True


def is_installed(model: nn.Module) -> bool:
    """Return whether the model uses this attention."""
    return getattr(model.config, "_attn_implementation", "") in OWN.values()


def uninstall(model: nn.Module) -> None:
    """Switch the model back to its original attention."""
    config: Any = model.config
    stock = next(name for name, own in OWN.items() if own == config._attn_implementation)
    model.set_attn_implementation(stock)  # type: ignore[operator]
