"""Predict the memory that a set of trials needs on a base, and correct the prediction by measured peaks. No torch.

The peak of training consists of the base's weights at their precision, the adapters with gradients and optimizer
states, the activations saved for backward, and the workspace of a single operation. Evaluation peaks at another time.
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
