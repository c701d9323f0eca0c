"""LoRA (arXiv 2106.09685), also with the scale of rsLoRA (arXiv 2312.03732): y = base(x) + scale * (dropout(x) A^T) B.

B is kept transposed, (r, outputs), so that rank comes first in both matrices.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from lorasweep.adapters.methods.method import Method
from lorasweep.core.spec import AdapterSpec, Rule

if TYPE_CHECKING:
    from torch import Generator, Tensor
    from torch.nn import Module

    from lorasweep.adapters.products import AdaptedRows

# k slots of a run, R rank, D inputs, O outputs, M tokens of the longest slot; N tokens of the whole batch


IN_SCALE = "it is part of the scale"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSpec(AdapterSpec):
    """The settings of LoRA, with PEFT's names."""

    ranges: ClassVar[Mapping[str, Rule]] = {
        "r": (lambda v: v >= 1, "must be at least 1"),
        "lora_alpha": (lambda v: v > 0, "must be a positive number or a multiple of the rank such as 2r"),
        "lora_dropout": (lambda v: 0 <= v < 1, "must be in [0, 1)"),
    }
    not_in_fingerprint: ClassVar[Mapping[str, str]] = {"lora_alpha": IN_SCALE, "use_rslora": IN_SCALE}

    method: str = "lora"
    r: int
    lora_alpha: float
    lora_dropout: float = 0.0
    use_rslora: bool = False

    @classmethod
    def expanded(cls, raw: Mapping[str, Any]) -> dict[str, Any]:
        """Replace an alpha such as `2r` by its value at the trial's rank."""
        alpha, rank = raw.get("lora_alpha"), raw.get("r")
        found = alpha_of(alpha, rank if isinstance(rank, int) else 1) if isinstance(alpha, str) else alpha
        return {**raw, "lora_alpha": found} if "lora_alpha" in raw else dict(raw)

    @property
    def scale(self) -> float:
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)

    def identity(self) -> dict[str, Any]:
        """The scale counts, not how it was written. Fingerprints of stored results fix these names."""
        found = super(LoraSpec, self).identity()  # `super()` does not work in a dataclass with slots
        found |= {"scale": self.scale, "dropout": found.pop("lora_dropout")}
        return {key: value for key, value in found.items() if (key, value) != ("method", "lora")}


def alpha_of(text: str, rank: int) -> float | str:
    """Return alpha as a number; `r`, `2r` and `0.5r` are multiples of the rank. Other text is returned as it is."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(?:\*?(r))?|(r)", text.strip())
    if match is None:
        return text
    return float(match.group(1) or 1) * (rank if match.group(2) or match.group(3) else 1)


class Lora(Method[LoraSpec]):
    """Two matrices of rank r per linear: A (r, inputs) and B (r, outputs)."""

    name = "lora"
    settings = LoraSpec
    tensor_names = ("A", "B")
    peft_type = "LORA"
    peft_names = ("lora_A.weight", "lora_B.weight")
    num_operations = 6  # products: two forward, four backward

    def shapes(self, inputs: int, outputs: int, rank: int) -> tuple[tuple[int, ...], ...]:
        return (rank, inputs), (rank, outputs)  # r (d_in + d_out) numbers (section 4.2)

    def rank(self, spec: LoraSpec) -> int:
        return spec.r

    def num_kept(self, inputs: int, outputs: int, rank: int) -> int:
        return rank

    def dropout(self, spec: LoraSpec) -> float:
        return spec.lora_dropout

    def start(self, tensors: Sequence[Tensor], spec: LoraSpec, base: Module, generator: Generator) -> None:
        """Draw A as PEFT does; B stays zero, so that the adapter changes nothing yet."""
        from torch import empty
        from torch.nn.init import kaiming_uniform_

        a_RD, _ = tensors
        a_RD.copy_(kaiming_uniform_(empty(a_RD.shape), a=math.sqrt(5), generator=generator))

    def constants(self, specs: Sequence[LoraSpec], like: Tensor) -> tuple[Tensor, ...]:
        return (like.new_tensor([spec.scale for spec in specs]).view(-1, 1, 1),)

    def forward(self, rows: AdaptedRows, y_NO: Tensor, x_kMD: Tensor) -> tuple[Tensor, ...]:
        (a_kRD, b_kRO), (scale_k11,) = rows.tensors, rows.constants
        h_kMR = x_kMD.bmm(a_kRD.transpose(1, 2)).mul_(scale_k11)
        rows.add_product(y_NO, h_kMR, b_kRO)
        return (h_kMR,)

    def backward(
        self, rows: AdaptedRows, gy_NO: Tensor, gx_ND: Tensor | None, x_kMD: Tensor, kept: Sequence[Tensor]
    ) -> None:
        (a_kRD, b_kRO), (scale_k11,), (h_kMR,) = rows.tensors, rows.constants, kept
        grad_a, grad_b = rows.gradients
        gy_kMO = rows.padded(gy_NO).to(x_kMD.dtype)
        gh_kMR = gy_kMO.bmm(b_kRO.transpose(1, 2)).mul_(scale_k11)
        # Not baddbmm_: on a stack, whose matrices are not contiguous, it multiplies slot by slot.
        grad_b.add_(h_kMR.transpose(1, 2).bmm(gy_kMO))
        grad_a.add_(gh_kMR.transpose(1, 2).bmm(x_kMD))
        if gx_ND is not None:
            rows.add_product(gx_ND, gh_kMR, a_kRD)

    def peft_settings(self, spec: LoraSpec) -> dict[str, object]:
        alpha = int(spec.lora_alpha) if spec.lora_alpha == int(spec.lora_alpha) else spec.lora_alpha
        return {"r": spec.r, "lora_alpha": alpha, "lora_dropout": spec.lora_dropout, "use_rslora": spec.use_rslora}

    def to_peft(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        a_RD, b_RO = tensors
        return a_RD, b_RO.t()

    def from_peft(self, stored: Sequence[Tensor]) -> tuple[Tensor, ...]:
        a_RD, b_OR = stored
        return a_RD, b_OR.t()
