"""Bytes of the permanent tensors: the base's weights, and adapters with gradients and optimizer states."""

from math import prod

from lorasweep.adapters.methods.table import method_of, num_trainable
from lorasweep.core.sizes import DTYPE_BYTES
from lorasweep.core.spec import ModelSpec, TrialSpec
from lorasweep.memory.shape import Shape

BLOCK = 64  # weights that share a constant in 4 bits
DOUBLE_BLOCK = 256  # constants that share a constant in double quantisation (arXiv 2305.14314, section 3)
TABLE = 256 * 4  # bytes of the table of double quantisation, per linear layer
STATE_BYTES = {"adamw": 8, "paged_adamw_8bit": 2 + 8 / 256}  # each 8-bit state has an fp32 constant per 256 numbers
SMALLEST_8BIT = 4096  # bitsandbytes keeps the states of smaller tensors in fp32


def weight_bytes(shape: Shape, model: ModelSpec) -> int:
    """Return the bytes of the base's weights; embeddings, norms, biases and the head stay in the compute type."""
    plain = DTYPE_BYTES[model.dtype]
    if model.precision == "none":
        return shape.num_parameters * plain
    linear = shape.num_linear_parameters
    stored = sum(_stored(i, o, model.precision) for i, o in shape.linears.values())
    return int(stored + (shape.num_parameters - linear) * plain)


def _stored(inputs: int, outputs: int, precision: str) -> float:
    """Return the bytes of a quantised matrix with its constants."""
    size = inputs * outputs
    if precision == "int8":
        return size + 4 * outputs
    constants = size / BLOCK
    if precision == "nf4_double":
        return size / 2 + constants + 4 * constants / DOUBLE_BLOCK + TABLE
    return size / 2 + 4 * constants


def adapter_bytes(shape: Shape, spec: TrialSpec, padded_size: int | None = None) -> int:
    """Return the bytes of an adapter: fp32 parameters, gradient, optimizer state and, in 16 bits, the compute copy.

    `padded_size`: the number of parameters after padding in a stack with larger adapters; by default its own number.
    """
    method, dims = method_of(spec.lora), shape.adapted(spec.lora.target_modules)
    size = padded_size or num_trainable(spec.lora, dims)
    copy = 0 if spec.model.dtype == "fp32" else DTYPE_BYTES[spec.model.dtype]
    stacked = size * (4 + 4 + copy)
    if spec.train.optim == "adamw":
        return int(stacked + size * STATE_BYTES["adamw"])
    rank = method.rank(spec.lora)
    tensors = [prod(one) for sides in dims.values() for one in method.shapes(*sides, rank)]
    return int(stacked + sum(n * (8 if n < SMALLEST_8BIT else STATE_BYTES["paged_adamw_8bit"]) for n in tensors))
