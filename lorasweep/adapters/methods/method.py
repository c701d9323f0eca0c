"""The interface of an adapter method. Everything else in this package works with any method.

An adapter has a few tensors per adapted linear. The tensors of all linears are in one fp32 vector per slot, which the
optimizer trains. Slots of one method are stacked: a tensor of shape (...) becomes (k, ...) for k slots, padded with
zeros if slots differ in rank or in the linears that they adapt.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

from lorasweep.core.spec import AdapterSpec

if TYPE_CHECKING:
    from torch import Generator, Tensor
    from torch.nn import Module

    from lorasweep.adapters.products import AdaptedRows
    from lorasweep.adapters.slot import Slot

# k slots of a run, M tokens of the longest of them, D inputs and O outputs of a linear; N tokens of the whole batch

S = TypeVar("S", bound=AdapterSpec)
Dims = Mapping[str, tuple[int, int]]  # (inputs, outputs) of each adapted linear, by path


class Method(ABC, Generic[S]):
    """An adapter method. `S` is the type of its settings."""

    name: ClassVar[str]  # as in the settings' `method`
    settings: ClassVar[type[AdapterSpec]]
    tensor_names: ClassVar[tuple[str, ...]]  # of one linear's tensors, in checkpoints
    peft_type: ClassVar[str]  # a member of `peft.PeftType`
    peft_names: ClassVar[tuple[str, ...]]  # of one linear's tensors in PEFT's state dict, behind the linear's path
    num_operations: ClassVar[int]  # that one linear launches per training step, forward and backward
    # Whether zeros in all tensors leave the base's output unchanged and get a gradient of zero. If not, only slots of
    # equal shapes are stacked.
    can_pad: ClassVar[bool] = True
    # Whether the base's output is changed, not just added to; then `base_gradient` is called.
    changes_base_output: ClassVar[bool] = False

    # Parameters and memory

    @abstractmethod
    def shapes(self, inputs: int, outputs: int, rank: int) -> tuple[tuple[int, ...], ...]:
        """Return the shapes of one linear's tensors."""

    def rank(self, spec: S) -> int:
        """Return the size in which the shapes of two slots on the same linear may differ; 1 if there is none."""
        return 1

    def num_parameters(self, dims: Dims, rank: int) -> int:
        """Return the trained numbers of an adapter on these linears."""
        counts = Counter(dims.values())  # the layers of a base are alike
        return sum(num * sum(map(prod, self.shapes(*size, rank))) for size, num in counts.items())

    @abstractmethod
    def num_kept(self, inputs: int, outputs: int, rank: int) -> int:
        """Return how many numbers per token one linear saves for backward, without its input."""

    def dropout(self, spec: S) -> float:
        """Return the probability that an element of the adapter's input is set to zero."""
        return 0.0

    # Training

    @abstractmethod
    def start(self, tensors: Sequence[Tensor], spec: S, base: Module, generator: Generator) -> None:
        """Set the initial values of one linear's tensors, which are zero, in place.

        `base` is the frozen linear itself, for methods that start from its weights.
        """

    def constants(self, specs: Sequence[S], like: Tensor) -> tuple[Tensor, ...]:
        """Return the untrained tensors of a stack: each (k, ...), with the type and device of `like`."""
        return ()

    @abstractmethod
    def forward(self, rows: AdaptedRows, y_NO: Tensor, x_kMD: Tensor) -> tuple[Tensor, ...]:
        """Add the adapters' output on the input `x_kMD` to the rows of `y_NO`, in place.

        Returns:
            The tensors that backward needs, without `x_kMD`.
        """

    def base_gradient(self, rows: AdaptedRows, gradient_NO: Tensor, kept: Sequence[Tensor]) -> None:
        """Replace the gradient of the adapted output by that of the base's output, in place, in these rows."""

    @abstractmethod
    def backward(
        self, rows: AdaptedRows, gy_NO: Tensor, gx_ND: Tensor | None, x_kMD: Tensor, kept: Sequence[Tensor]
    ) -> None:
        """Add the tensors' gradients to `rows.gradients`, and that of the adapters' input to `gx_ND`, in place.

        `gy_NO` is the gradient of the linear's output, and `gx_ND` is None where no gradient of the input is needed.
        """

    def after_step(self, slot: Slot, step: int) -> None:  # optional
        """Change a slot after its optimizer step number `step`, counted from 0."""

    # PEFT's format

    @abstractmethod
    def peft_settings(self, spec: S) -> dict[str, object]:
        """Return the arguments of PEFT's configuration that only this method has."""

    @abstractmethod
    def to_peft(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return one linear's tensors as PEFT stores them, in the order of `peft_names`."""

    @abstractmethod
    def from_peft(self, stored: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the tensors of one linear: the inverse of `to_peft`."""
