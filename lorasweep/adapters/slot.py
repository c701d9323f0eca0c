"""One adapter in training: its numbers as one vector, whatever they are multiplied with at the time.

A slot's optimizer sees the vector only, so a step is one operation, and where the numbers lie is the bank's affair.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lorasweep.core.spec import LoraSpec

# P numbers of a room, R rank, D inputs, O outputs

Matrices = dict[str, tuple[Tensor, Tensor]]
Dims = Mapping[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Room:
    """The shape that a vector is laid out for: adapted linears with their (inputs, outputs), and the rank of all."""

    dims: Dims
    rank: int

    @property
    def size(self) -> int:
        """Return r (d_in + d_out), summed over the adapted linears (arXiv 2106.09685, section 4.2)."""
        return sum(self.rank * (inputs + outputs) for inputs, outputs in self.dims.values())

    def split(self, flat: Tensor) -> Matrices:
        """View the last dimension of `flat` as (A, B) per linear: (..., P) becomes (..., R, D) and (..., R, O)."""
        found, start = {}, 0
        for path, (inputs, outputs) in self.dims.items():
            middle, stop = start + self.rank * inputs, start + self.rank * (inputs + outputs)
            found[path] = (
                _view(flat[..., start:middle], self.rank),
                _view(flat[..., middle:stop], self.rank),
            )
            start = stop
        return found


@dataclass(eq=False, slots=True)
class Slot:
    """An adapter of shape `own`, in a vector laid out for `room`.

    The room may be larger, so that unequal slots can be stacked. What is too much is zero, gets a gradient of zero,
    and so stays zero under any optimizer.
    """

    number: int
    spec: LoraSpec
    seed: int
    num_tokens: int  # of a usual micro-batch; a hint for who multiplies with whom
    own: Room
    room: Room
    vector: nn.Parameter
    optimizer: torch.optim.Optimizer | None = None
    _tensors: list[nn.Parameter] = field(default_factory=list)

    @property
    def num_trainable(self) -> int:
        return self.own.size

    @property
    def gradient(self) -> Tensor:
        assert self.vector.grad is not None
        return self.vector.grad

    @property
    def matrices(self) -> Matrices:
        """Return views (A_RD, B_RO) of its own rank per adapted linear. Rank comes first in both."""
        return self.corners(self.vector.data)

    def corners(self, flat_P: Tensor) -> Matrices:
        """View what is this slot's own of a vector laid out for its room."""
        matrices = self.room.split(flat_P)
        return {path: (a[: self.own.rank], b[: self.own.rank]) for path in self.own.dims for a, b in [matrices[path]]}

    @property
    def tensors(self) -> list[nn.Parameter]:
        """Return the matrices as parameters, for optimizers that treat each tensor by itself."""
        if not self._tensors:
            self._tensors = [nn.Parameter(x) for pair in self.matrices.values() for x in pair]
            self.place(self.vector.data, self.gradient)
        return self._tensors

    def place(self, values_P: Tensor, grad_P: Tensor) -> None:
        """Let the numbers, which these must hold already, lie here from now on."""
        self.vector.data, self.vector.grad = values_P, grad_P
        if self._tensors:
            values = [x for pair in self.matrices.values() for x in pair]
            grads = [x for pair in self.corners(grad_P).values() for x in pair]
            for parameter, value, grad in zip(self._tensors, values, grads, strict=True):
                parameter.data, parameter.grad = value, grad

    def fit(self, room: Room) -> None:
        """Lay the numbers, their gradient and what the optimizer keeps of each out for another room."""
        if room == self.room:
            return
        old = [self.vector.data, self.gradient]
        state = self.optimizer.state.get(self.vector, {}) if self.optimizer else {}
        kept = {name: x for name, x in state.items() if isinstance(x, Tensor) and x.shape == self.vector.shape}
        corners = [self.corners(x) for x in (*old, *kept.values())]
        new = [x.new_zeros(room.size) for x in (*old, *kept.values())]
        self.room = room
        for source, target in zip(corners, new, strict=True):
            torch._foreach_copy_(_flat(self.corners(target)), _flat(source))
        self.place(new[0], new[1])
        state.update(zip(kept, new[2:], strict=True))


def _view(part: Tensor, rank: int) -> Tensor:
    return part.view(*part.shape[:-1], rank, part.shape[-1] // rank)


def _flat(matrices: Matrices) -> list[Tensor]:
    return [x for pair in matrices.values() for x in pair]


def make_slot(number: int, spec: LoraSpec, seed: int, dims: Dims, num_tokens: int, device: torch.device) -> Slot:
    """Return a fresh adapter: A drawn as PEFT draws it, B zero, so that it changes nothing yet."""
    own = Room(dims, spec.r)
    slot = Slot(number, spec, seed, num_tokens, own, own, nn.Parameter(torch.zeros(own.size, device=device)))
    slot.vector.grad = torch.zeros(own.size, device=device)
    generator = torch.Generator().manual_seed(seed)
    for a_RD, _ in slot.matrices.values():
        a_RD.copy_(nn.init.kaiming_uniform_(torch.empty(a_RD.shape), a=math.sqrt(5), generator=generator))
    return slot
