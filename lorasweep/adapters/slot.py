"""One adapter in training. All of its parameters are in one fp32 vector.

The slot's optimizer gets only this vector, so an optimizer step is one operation. The bank allocates the vector and
decides with which other slots it is stacked.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from lorasweep.adapters.methods.method import Dims, Method
from lorasweep.adapters.methods.table import method_of
from lorasweep.core.spec import AdapterSpec

# P numbers of a vector

Tensors = dict[str, tuple[Tensor, ...]]  # an adapter's tensors by the path of their linear


@dataclass(frozen=True, slots=True)
class VectorLayout:
    """The positions of an adapter's tensors in a vector: linear after linear, each with its tensors in order."""

    method: Method[Any]
    dims: Dims
    rank: int

    @property
    def size(self) -> int:
        return self.method.num_parameters(self.dims, self.rank)

    def shapes(self, path: str) -> tuple[tuple[int, ...], ...]:
        """Return the shapes of the tensors of one linear."""
        return self.method.shapes(*self.dims[path], self.rank)

    def split(self, flat: Tensor) -> Tensors:
        """View the last dimension of `flat`, (..., P), as tensors (..., *shape)."""
        found, start = {}, 0
        for path in self.dims:
            parts = []
            for shape in self.shapes(path):
                stop = start + prod(shape)
                parts.append(flat[..., start:stop].view(*flat.shape[:-1], *shape))
                start = stop
            found[path] = tuple(parts)
        return found


@dataclass(eq=False, slots=True)
class Slot:
    """An adapter whose tensors have the shapes of `own`, in a vector with the layout `layout`.

    `layout` may be larger than `own`, so that unequal slots can be stacked. The numbers beyond `own` are zero, get a
    gradient of zero, and so stay zero under any optimizer.
    """

    number: int
    spec: AdapterSpec
    seed: int
    num_tokens: int  # of an average micro-batch; it affects which slots are stacked
    own: VectorLayout
    layout: VectorLayout
    vector: nn.Parameter
    optimizer: torch.optim.Optimizer | None = None
    _parameters: list[nn.Parameter] = field(default_factory=list)

    @property
    def method(self) -> Method[Any]:
        return self.own.method

    @property
    def num_trainable(self) -> int:
        return self.own.size

    @property
    def gradient(self) -> Tensor:
        assert self.vector.grad is not None
        return self.vector.grad

    @property
    def tensors(self) -> Tensors:
        """Return views of the adapter's tensors, without padding."""
        return self.views(self.vector.data)

    def views(self, flat_P: Tensor) -> Tensors:
        """View the adapter's own part of a vector with its layout."""
        padded = self.layout.split(flat_P)
        return {path: tuple(map(_corner, padded[path], self.own.shapes(path))) for path in self.own.dims}

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Return each tensor as a parameter, for optimizers that treat tensors separately."""
        if not self._parameters:
            self._parameters = [nn.Parameter(x) for x in _flat(self.tensors)]
            self.place(self.vector.data, self.gradient)
        return self._parameters

    def start(self, linears: Mapping[str, nn.Module]) -> None:
        """Set the method's initial values, drawn from the slot's seed, on these frozen linears."""
        generator = torch.Generator().manual_seed(self.seed)
        for path, tensors in self.tensors.items():
            self.method.start(tensors, self.spec, linears[path], generator)

    def place(self, values_P: Tensor, grad_P: Tensor) -> None:
        """Point parameters and gradients at these vectors, which already hold the values."""
        self.vector.data, self.vector.grad = values_P, grad_P
        if self._parameters:
            parts = zip(self._parameters, _flat(self.tensors), _flat(self.views(grad_P)), strict=True)
            for parameter, value, grad in parts:
                parameter.data, parameter.grad = value, grad

    def change_layout(self, layout: VectorLayout) -> None:
        """Copy the values, their gradient and the optimizer's state of each into vectors with another layout."""
        if layout == self.layout:
            return
        state = self.optimizer.state.get(self.vector, {}) if self.optimizer else {}
        kept = {name: x for name, x in state.items() if isinstance(x, Tensor) and x.shape == self.vector.shape}
        old = [_flat(self.views(x)) for x in (self.vector.data, self.gradient, *kept.values())]
        new = [self.vector.data.new_zeros(layout.size, dtype=x[0].dtype) for x in old]
        self.layout = layout
        for source, target in zip(old, new, strict=True):
            torch._foreach_copy_(_flat(self.views(target)), source)
        self.place(new[0], new[1])
        state.update(zip(kept, new[2:], strict=True))


def _corner(padded: Tensor, shape: tuple[int, ...]) -> Tensor:
    return padded[tuple(slice(size) for size in shape)]


def _flat(tensors: Tensors) -> list[Tensor]:
    return [x for parts in tensors.values() for x in parts]


def make_slot(number: int, spec: AdapterSpec, seed: int, dims: Dims, num_tokens: int, device: torch.device) -> Slot:
    """Return a slot whose numbers are zero until `start`."""
    method = method_of(spec)
    own = VectorLayout(method, dims, method.rank(spec))
    slot = Slot(number, spec, seed, num_tokens, own, own, nn.Parameter(torch.zeros(own.size, device=device)))
    slot.vector.grad = torch.zeros(own.size, device=device)
    return slot
