"""Train on rows of any length without padding: all tokens lie end to end, and only attention sees rows.

Linears, norms and activations work token by token, so padding is wasted on them. Attention is handed back padded rows,
for the length of one call. Registered with transformers as an attention implementation of its own.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

# B rows, S longest row, T tokens of all rows, H heads, E width of a head

NAME = "lorasweep"


@dataclass(frozen=True, slots=True)
class Rows:
    """Where tokens are. `place_BS` maps padded rows to tokens (T where there is none), `token_T` back to B * S.

    `filled_BS` is `place_BS` with a row's own last token as padding. No other will do: a causal row gives padding
    no weight, but no weight times a diverged neighbour's NaN is NaN.
    """

    place_BS: Tensor
    filled_BS: Tensor
    token_T: Tensor

    @staticmethod
    def of(lengths: list[int]) -> "Rows":
        """Return the places of rows of these lengths that lie end to end."""
        length_B = torch.tensor(lengths)
        column_S = torch.arange(int(length_B.max()))
        is_token_BS = column_S < length_B[:, None]
        place_BS = torch.full(is_token_BS.shape, int(length_B.sum()))
        place_BS[is_token_BS] = torch.arange(int(length_B.sum()))
        filled_BS = place_BS.minimum(length_B.cumsum(0)[:, None] - 1)
        return Rows(place_BS, filled_BS, is_token_BS.flatten().nonzero().flatten())

    def to(self, device: torch.device) -> "Rows":
        """Return the same places on another device."""
        return Rows(self.place_BS.to(device), self.filled_BS.to(device), self.token_T.to(device))


class _Pad(torch.autograd.Function):
    """Tokens to padded rows. Each token has one place, so backward gathers; nothing is summed."""

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


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    lorasweep_rows: Rows | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend within rows where they are given; otherwise be transformers' own SDPA attention."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if lorasweep_rows is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    rows = lorasweep_rows
    tokens = (x[0].transpose(0, 1) for x in (query, key, value))
    # A CPU's fused attention is several times slower backward in 16 bits than in 32.
    dtype = torch.float32 if query.device.type == "cpu" else query.dtype
    q, k, v = (_Pad.apply(x_THE.to(dtype), rows).transpose(1, 2) for x_THE in tokens)  # type: ignore[no-untyped-call]
    mask = _window(rows.place_BS.shape[1], kwargs.get("sliding_window"), query.device)
    out_BSHE, _ = sdpa_attention_forward(module, q, k, v, mask, **kwargs)
    return _Unpad.apply(out_BSHE, rows)[None].to(query.dtype), None  # type: ignore[no-untyped-call]


def _window(length: int, size: int | None, device: torch.device) -> Tensor | None:
    """Return the mask of a sliding window, None where rows are too short for it to matter."""
    if not size or length <= size:
        return None
    column_S = torch.arange(length, device=device)
    distance_SS = column_S[:, None] - column_S
    return ((distance_SS >= 0) & (distance_SS < size))[None, None]


KNOWN_LAYERS = {"full_attention", "sliding_attention"}


def install(model: nn.Module) -> bool:
    """Give the model this attention; return whether it can have it.

    A layer that carries a state from token to token, such as Mamba's, would carry it from row to row, so such models
    keep padded rows; so do models whose attention cannot be exchanged.
    """
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    config: Any = model.config
    layers = set(getattr(config.get_text_config(), "layer_types", None) or KNOWN_LAYERS)
    is_plain = getattr(config, "_attn_implementation", "") == "sdpa" and not getattr(model, "_is_stateful", False)
    if not is_plain or not layers <= KNOWN_LAYERS or not getattr(model, "_supports_attention_backend", False):
        return False
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)  # type: ignore[operator]
    return True
