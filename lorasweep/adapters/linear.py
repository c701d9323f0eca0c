"""A frozen linear with the adapters of all slots."""

from typing import Any

from torch import Tensor, nn

from lorasweep.adapters.layout import Layout
from lorasweep.adapters.products import AdaptedProduct, Adapters, AddAdapters

# B rows, S tokens, N = B * S, D inputs, O outputs


class AdaptedLinear(nn.Module):
    """A linear of the base, adapted by those slots of the pass that adapt its path."""

    def __init__(self, base: nn.Module, path: str, index: int, layout: Layout) -> None:
        super().__init__()
        self.base = base
        self.path = path
        self.index = index
        self.layout = layout

    @property
    def weight(self) -> Tensor:
        """The base's weight, whose dtype or device some layers read."""
        weight: Tensor = self.base.weight  # type: ignore[assignment]
        return weight

    @property
    def bias(self) -> Tensor | None:
        """The base's bias."""
        bias: Tensor | None = self.base.bias  # type: ignore[assignment]
        return bias

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        runs = [run for run in self.layout.runs if self.path in run.group.weights]
        if not runs:
            y: Tensor = self.base(x, *args, **kwargs)
            return y
        x_BSD = self.layout.batched(x, self.path)
        inputs, mask_ND = self.layout.inputs(x_BSD, self.index, runs)
        adapters = Adapters(self.path, runs, self.layout.unit(x_BSD))
        weight_OD = _plain_weight(self.base)
        if weight_OD is None:
            result: Tensor = AddAdapters.apply(  # type: ignore[no-untyped-call]
                x_BSD, self.base(x_BSD), self.layout.anchor, adapters, mask_ND, *inputs
            )
        else:
            result = AdaptedProduct.apply(  # type: ignore[no-untyped-call]
                x_BSD, weight_OD, self.base.bias, self.layout.anchor, adapters, mask_ND, *inputs
            )
        return result.view(*x.shape[:-1], result.shape[-1])


def _plain_weight(base: nn.Module) -> Tensor | None:
    """Return the weight_OD of a linear whose product is an ordinary one; None for a quantised layer."""
    if type(base) is nn.Linear:
        return base.weight
    return base.weight.t() if type(base).__name__ == "Conv1D" else None  # type: ignore[operator]
