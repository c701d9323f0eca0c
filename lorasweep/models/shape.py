"""What is known of a base without its weights: its linears and sizes, and the path of its files."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lorasweep.models import targets

FORMAT = 3  # increase it when stored facts about bases change their meaning, or what is tested about them changes
DEMO = Path(__file__).resolve().parent.parent / "demo" / "base"


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseInfo:
    """A base's shape. `linears` maps the path of each linear that can be adapted to its (inputs, outputs)."""

    name: str
    fingerprint: str
    model_type: str
    num_parameters: int
    linears: Mapping[str, tuple[int, int]]
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    activation: str
    vocab_size: int
    is_transposed: bool = False  # linears keep their weights as (inputs, outputs), as GPT-2's `Conv1D` does
    fused: tuple[str, ...] = ()  # weights of experts that lie in one tensor, by pattern; no adapter covers them
    unusable: Mapping[str, str] = field(default_factory=dict)  # linears that carry no adapter, by pattern: why

    @property
    def num_linear_parameters(self) -> int:
        """Weights that a quantised base stores in fewer bits."""
        return sum(i * o for i, o in self.linears.values())

    @property
    def is_gated(self) -> bool:
        """Tell whether its MLPs multiply by a gate."""
        return any(targets.part_of(path) in ("gate", "gate_up") for path in self.linears)

    def adapted(self, target_modules: tuple[str, ...]) -> dict[str, tuple[int, int]]:
        """Return the linears that these targets name."""
        return {p: s for p, s in self.linears.items() if any(targets.matches(p, t) for t in target_modules)}


def model_path(model_id: str) -> str:
    """Return what `from_pretrained` is given: a folder, or a hub id."""
    if model_id == "demo":
        return str(DEMO)
    folder = Path(model_id).expanduser()
    return str(folder) if folder.is_dir() else model_id
