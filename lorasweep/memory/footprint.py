"""Sum up the memory of trials on one base: the total, the share of each trial, and how many fit."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lorasweep.adapters.methods.table import method_of
from lorasweep.adapters.stack_plan import padded_sizes
from lorasweep.core.sizes import MIB, for_device
from lorasweep.core.spec import TrialSpec
from lorasweep.memory.activations import Load, kept_bytes, load_of, members_of, stacks_of, workspace_bytes
from lorasweep.memory.evaluation import evaluation_bytes
from lorasweep.memory.lengths import Lengths
from lorasweep.memory.shape import Shape
from lorasweep.memory.weights import adapter_bytes, weight_bytes

Loads = Sequence[tuple[TrialSpec, Lengths]]

# Memory outside tensors. CPU: buffers of libraries, measured by benchmarks/memory.py. CUDA: the context, an assumption
# that was not measured; PyTorch's own figures leave it out.
OVERHEAD = {"cpu": 25 * MIB, "cuda": 512 * MIB}
# Fragmentation of the allocator, as a share of the temporary tensors. CUDA: assumed, not measured.
CUDA_SLACK = 0.05
# CPU: measured. glibc's heap keeps gaps between saved and temporary tensors. One mmap per large tensor would avoid
# the gaps, but make a step 10 to 20 % longer.
HEAP_SLACK = {"training": 0.62, "evaluation": 0.35, "checkpointing": 2.5, "int8": 1.5}


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Predicted bytes by purpose. Training and evaluation peak at different times."""

    weights: int
    adapters: int
    activations: int  # with the workspace of the largest operation, including logits
    evaluation: int
    overhead: int
    slack: int

    @property
    def tensors(self) -> int:
        """Return the bytes that an allocator counts at the peak."""
        return self.weights + self.adapters + max(self.activations, self.evaluation)

    @property
    def total(self) -> int:
        return self.tensors + self.overhead + self.slack

    def measurable(self, kind: str) -> int:
        """Return the bytes that can be measured: the process on a CPU, PyTorch's tensors on a GPU."""
        return self.total if kind == "cpu" else self.tensors

    def corrected(self, factor: float, kind: str = "cpu") -> "Footprint":
        """Return a footprint with all measurable parts multiplied by a factor, except the weights, which are known."""
        names = ("adapters", "activations", "evaluation", "slack", *(["overhead"] if kind == "cpu" else []))
        return replace(self, **{name: round(getattr(self, name) * factor) for name in names})


def footprint(shape: Shape, loads: Loads, *, kind: str = "cpu", is_evaluated: bool = True) -> Footprint:
    """Predict the peak of these trials when they train in one pass and are evaluated together."""
    specs = [spec for spec, _ in loads]
    model = specs[0].model
    each = [load_of(spec, lengths) for spec, lengths in loads]
    kept = _kept(shape, specs, each, kind)
    widest = max((lengths for _, lengths in loads), key=lambda x: (x.scored * x.scored_labels, x.scored))
    activations = sum(kept) + workspace_bytes(shape, model, each, kind)
    evaluation = evaluation_bytes(shape, specs, widest) if is_evaluated else 0
    return Footprint(
        weights=weight_bytes(shape, model),
        adapters=sum(_adapter_bytes(shape, specs, each)),
        activations=activations,
        evaluation=evaluation,
        overhead=for_device(OVERHEAD, kind),
        slack=_slack(specs, activations, evaluation, kind),
    )


def _slack(specs: Sequence[TrialSpec], activations: int, evaluation: int, kind: str) -> int:
    """Return the bytes that fragmentation adds to the larger of the two peaks."""
    peak = max(activations, evaluation)
    if kind != "cpu":
        return round(CUDA_SLACK * peak)
    shares = [HEAP_SLACK["training"]]
    shares += [HEAP_SLACK["checkpointing"]] if any(s.train.activation_checkpointing for s in specs) else []
    shares += [HEAP_SLACK["int8"]] if specs[0].model.precision == "int8" else []
    heaps = activations * (1 + max(shares)), evaluation * (1 + HEAP_SLACK["evaluation"])
    return round(max(heaps)) - peak


def own_bytes(shape: Shape, loads: Loads, *, kind: str = "cpu") -> list[int]:
    """Return the bytes of each trial alone: its adapter and its activations."""
    specs = [spec for spec, _ in loads]
    each = [load_of(spec, lengths) for spec, lengths in loads]
    kept = [_kept(shape, [spec], [load], kind)[0] for spec, load in zip(specs, each, strict=True)]
    return [a + k for a, k in zip(_adapter_bytes(shape, specs, each), kept, strict=True)]


def _adapter_bytes(shape: Shape, specs: Sequence[TrialSpec], each: Sequence[Load]) -> list[int]:
    """Return the bytes of each trial's adapter, padded as in its stack."""
    sizes = padded_sizes(members_of(shape, specs, each))
    return [adapter_bytes(shape, spec, size) for spec, size in zip(specs, sizes, strict=True)]


def _kept(shape: Shape, specs: Sequence[TrialSpec], each: Sequence[Load], kind: str) -> list[int]:
    stacks = stacks_of(shape, specs, each, kind)
    dropout = any(method_of(spec.lora).dropout(spec.lora) for spec in specs)
    return [
        kept_bytes(shape, spec, load, kind=kind, stack=stack, dropout=dropout)
        for spec, load, stack in zip(specs, each, stacks, strict=True)
    ]


def slots_that_fit(shape: Shape, loads: Loads, budget: float, most: int, *, kind: str, factor: float = 1.0) -> int:
    """Return how many copies of the largest of these trials fit into `budget` bytes together, at most `most`."""

    def need(load: tuple[TrialSpec, Lengths], count: int) -> int:
        return footprint(shape, [load] * count, kind=kind).corrected(factor, kind).total

    largest = max(loads, key=lambda load: need(load, 1))
    count = 0
    while count < most and need(largest, count + 1) <= budget:
        count += 1
    return count
