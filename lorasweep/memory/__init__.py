"""How many bytes a set of trials needs on a base: predicted by arithmetic, corrected by what was measured. No torch.

What training keeps alive at its peak: the base's weights at their precision, adapters with gradient and optimizer
state, the activations that backward needs, and what a single operation borrows. Evaluation peaks at another time.
"""

from lorasweep.core.sizes import GIB
from lorasweep.memory.corrections import Corrections
from lorasweep.memory.footprint import Footprint, Loads, footprint, own_bytes, slots_that_fit
from lorasweep.memory.lengths import Lengths, lengths_of
from lorasweep.memory.shape import Shape
from lorasweep.memory.weights import adapter_bytes, weight_bytes

__all__ = [
    "GIB", "Corrections", "Footprint", "Lengths", "Loads", "Shape", "adapter_bytes", "footprint", "lengths_of",
    "own_bytes", "slots_that_fit", "weight_bytes",
]  # fmt: skip
