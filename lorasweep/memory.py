"""How many bytes a set of trials needs on a base, predicted. Arithmetic only, no torch.

Counts what training keeps alive at its peak: the base's weights at their precision, each adapter with gradient and
optimizer state, the activations that backward needs, and logits at label positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from lorasweep.spec import ModelSpec, TrialSpec

GIB = 1 << 30
DTYPE_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
# 4-bit: half a byte and one fp32 constant per 64 weights; double quantisation stores the constants in 8 bits with one
# fp32 per 256 of them (arXiv 2305.14314, section 3). int8: one byte and one fp32 constant per output row.
WEIGHT_BYTES = {"nf4": 0.5 + 4 / 64, "fp4": 0.5 + 4 / 64, "nf4_double": 0.5 + 1 / 64 + 4 / (64 * 256), "int8": 1.0}
STATE_BYTES = {"adamw": 8, "paged_adamw_8bit": 2}


class Shape(Protocol):
    """What is used of a base's description."""

    @property
    def num_parameters(self) -> int: ...
    @property
    def num_linear_parameters(self) -> int: ...
    @property
    def num_layers(self) -> int: ...
    @property
    def hidden_size(self) -> int: ...
    @property
    def intermediate_size(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...
    def num_trainable(self, target_modules: tuple[str, ...], rank: int) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Bytes by what they are for."""

    weights: int
    adapters: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        return self.weights + self.adapters + self.activations + self.logits


def weight_bytes(shape: Shape, model: ModelSpec) -> int:
    """Return the base's weights; embeddings, norms and the head stay in the compute type."""
    plain = DTYPE_BYTES[model.dtype]
    stored = WEIGHT_BYTES.get(model.precision, plain)
    linear = shape.num_linear_parameters
    return int(linear * stored + (shape.num_parameters - linear) * plain)


def adapter_bytes(shape: Shape, spec: TrialSpec) -> int:
    """Return one adapter in fp32 with its gradient and its optimizer's state."""
    parameters = shape.num_trainable(spec.lora.target_modules, spec.lora.r)
    return parameters * (4 + 4 + STATE_BYTES[spec.train.optim])


def activation_bytes(shape: Shape, spec: TrialSpec, num_tokens: int) -> int:
    """Return what backward keeps of `num_tokens` tokens: of every layer, or of one with checkpointing."""
    width = DTYPE_BYTES[spec.model.dtype]
    # Norms, q, k, v, attention, residuals: about 14 rows of hidden width; gate, up, activation, product: 5 of the
    # inner one.
    layer = width * num_tokens * (14 * shape.hidden_size + 5 * shape.intermediate_size)
    if not spec.train.activation_checkpointing:
        return shape.num_layers * layer
    return layer + shape.num_layers * width * num_tokens * shape.hidden_size


def footprint(shape: Shape, specs: Sequence[TrialSpec], *, tokens_per_row: int, labels_per_row: float) -> Footprint:
    """Predict the peak of training these trials together. `tokens_per_row` is the longest padded row."""
    rows = [spec.train.per_device_train_batch_size for spec in specs]
    first = specs[0]
    labels = int(sum(rows) * labels_per_row)
    return Footprint(
        weights=weight_bytes(shape, first.model),
        adapters=sum(adapter_bytes(shape, spec) for spec in specs),
        activations=sum(activation_bytes(shape, s, n * tokens_per_row) for s, n in zip(specs, rows, strict=True)),
        # Logits, their fp32 copy and the gradient.
        logits=labels * shape.vocab_size * (DTYPE_BYTES[first.model.dtype] + 8),
    )


def slots_that_fit(
    shape: Shape, specs: Sequence[TrialSpec], budget: float, most: int, *, tokens_per_row: int, labels_per_row: float
) -> int:
    """Return how many of the hungriest of these trials fit together into `budget` bytes, at most `most`."""

    def need(spec: TrialSpec, count: int) -> int:
        return footprint(shape, [spec] * count, tokens_per_row=tokens_per_row, labels_per_row=labels_per_row).total

    hungriest = max(specs, key=lambda spec: need(spec, 1))
    fitting = [count for count in range(1, most + 1) if need(hungriest, count) <= budget]
    return fitting[-1] if fitting else 0
