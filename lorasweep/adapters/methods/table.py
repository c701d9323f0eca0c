"""The adapter methods by name."""

from typing import Any

from lorasweep.adapters.methods.lora import Lora
from lorasweep.adapters.methods.method import Dims, Method
from lorasweep.core.spec import AdapterSpec

# Any: each method has its own type of settings.
DEFAULT = Lora.name
METHODS: dict[str, Method[Any]] = {method.name: method for method in (Lora(),)}


def method_of(spec: AdapterSpec) -> Method[Any]:
    """Return the method with these settings."""
    return METHODS[spec.method]


def num_trainable(spec: AdapterSpec, dims: Dims) -> int:
    """Return the trained parameters of an adapter on these linears."""
    method = method_of(spec)
    return method.num_parameters(dims, method.rank(spec))
