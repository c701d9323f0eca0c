"""A frozen linear that carries the LoRA adapters of all slots."""

from torch import Tensor, nn

from lorasweep.layout import Layout
from lorasweep.products import AdaptedProduct, Adapters, AddAdapters

# B rows, S tokens, N = B * S, D inputs, O outputs


class AdaptedLinear(nn.Module):
    """A base linear that adds the products of whichever slots adapt it."""

    def __init__(self, base: nn.Module, path: str, index: int, layout: Layout) -> None:
        super().__init__()
        self.base = base
        self.path = path
        self.index = index
        self.layout = layout

    def forward(self, x_BSD: Tensor) -> Tensor:
        runs = [run for run in self.layout.runs if self.path in run.group.weights]
        if not runs:
            y_BSO: Tensor = self.base(x_BSD)
            return y_BSO
        x_BSD = x_BSD.contiguous()
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
        return result


def _plain_weight(base: nn.Module) -> Tensor | None:
    """Return the weight_OD of a linear whose product is an ordinary one; a quantised layer has its own."""
    if type(base) is nn.Linear:
        return base.weight
    return base.weight.t() if type(base).__name__ == "Conv1D" else None  # type: ignore[operator]
