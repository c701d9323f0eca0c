"""The common GPUs that a prediction fits, and the usual rule of thumb for comparison."""

from lorasweep.core.sizes import GIB
from lorasweep.core.spec import ModelSpec
from lorasweep.memory.shape import Shape

# Common memory sizes in GB with example cards.
COMMON = {
    8: "RTX 4060", 12: "RTX 4070", 16: "T4, RTX 4080", 24: "L4, A10, RTX 4090", 32: "V100, RTX 5090", 40: "A100",
    48: "L40S, A6000", 80: "A100, H100", 141: "H200", 192: "MI300X, B200",
}  # fmt: skip
USABLE = 0.95  # share of the memory that the GPU driver leaves
RULE_BYTES = {"none": 2.0, "int8": 1.0, "nf4": 0.5, "nf4_double": 0.5, "fp4": 0.5}
RULE = "2 bytes per parameter in 16 bits (4 in fp32, 1 in 8 bits, 0.5 in 4 bits), plus 20 %"


def fitting(need_bytes: float) -> dict[int, str]:
    """Return the common sizes in GB that hold `need_bytes`, smallest first, with their cards."""
    return {size: cards for size, cards in COMMON.items() if need_bytes <= USABLE * size * GIB}


def rule_of_thumb(shape: Shape, model: ModelSpec) -> float:
    """Return the bytes by `RULE`, which ignores batch size and rank."""
    each = 4.0 if (model.precision, model.dtype) == ("none", "fp32") else RULE_BYTES[model.precision]
    return 1.2 * each * shape.num_parameters
