"""Bytes of the activations saved for backward, counted from the tensors that autograd saves in this implementation.

A frozen weight needs no gradient, so a linear layer saves its input only if it has an adapter. Query, key and value
share one input, and so do gate and up. Attention saves padded rows, on a CPU in fp32.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lorasweep.adapters.methods.method import Dims
from lorasweep.adapters.methods.table import method_of
from lorasweep.adapters.stack_plan import Member, stacks
from lorasweep.core.sizes import DTYPE_BYTES, chunk_rows
from lorasweep.core.spec import ModelSpec, TrialSpec
from lorasweep.memory.lengths import Lengths
from lorasweep.memory.shape import Shape
from lorasweep.models.targets import part_of

SHARED = {"q": "in", "k": "in", "v": "in", "qkv": "in", "gate": "in", "up": "in", "gate_up": "in"}
# Tensors of the inner width that an MLP without a gate saves: those of its activation function.
PLAIN_MLP = {"relu": 1, "gelu": 1, "gelu_pytorch_tanh": 1, "gelu_new": 5, "gelu_fast": 5, "bloom_gelu": 1}
GATED_MLP = 3  # the gate, its activation, and up


@dataclass(frozen=True, slots=True)
class Load:
    """The tokens of a slot's longest micro-batch."""

    tokens: int  # without padding
    padded: int  # with padding, as in attention
    labels: float
    usual: int = 0  # tokens of an average micro-batch


def load_of(spec: TrialSpec, lengths: Lengths) -> Load:
    """Return the load of the longest micro-batch that is likely in a trial."""
    rows = spec.train.per_device_train_batch_size
    usual = max(1, round(rows * lengths.mean))
    return Load(lengths.batch(rows), rows * lengths.longest, rows * lengths.labels, usual)


@dataclass(frozen=True, slots=True)
class Stack:
    """The sizes to which the inputs and products of a stack's adapters are padded."""

    rank: int
    tokens: int  # of the longest micro-batch
    adapted: Dims  # linear layers that at least one of its adapters changes


def stacks_of(shape: Shape, specs: Sequence[TrialSpec], each: Sequence[Load], kind: str) -> list[Stack]:
    """Return the stack of each trial, grouped as in the bank (`stack_plan`)."""
    members = members_of(shape, specs, each)
    found: dict[int, Stack] = {}
    for group in stacks(range(len(specs)), lambda i: members[i], kind):
        adapted = {p: d for i in group for p, d in members[i].dims.items()}
        tokens, rank = max(each[i].tokens for i in group), max(members[i].rank for i in group)
        found |= dict.fromkeys(group, Stack(rank, tokens, adapted))
    return [found[i] for i in range(len(specs))]


def members_of(shape: Shape, specs: Sequence[TrialSpec], each: Sequence[Load]) -> list[Member]:
    """Return the properties of each trial that decide its stack."""
    every = {names: shape.adapted(names) for names in {spec.lora.target_modules for spec in specs}}
    methods = [method_of(spec.lora) for spec in specs]
    return [
        Member(method, every[spec.lora.target_modules], method.rank(spec.lora), load.usual)
        for method, spec, load in zip(methods, specs, each, strict=True)
    ]


def kept_bytes(shape: Shape, spec: TrialSpec, load: Load, *, kind: str, stack: Stack, dropout: bool) -> int:
    """Return the bytes saved for backward per slot: all layers, or with checkpointing their inputs and one layer.

    `dropout`: whether any slot of the bank has dropout.
    """
    layer = _layer_bytes(shape, spec, load, kind, stack, dropout)
    width = DTYPE_BYTES[spec.model.dtype]
    ends = _norm_width(spec.model, kind) * load.tokens * shape.hidden_size + 2 * width * load.labels * shape.hidden_size
    if not spec.train.activation_checkpointing:
        return int(shape.num_layers * layer + ends)
    return int(layer + shape.num_layers * width * load.tokens * shape.hidden_size + ends)


def _layer_bytes(shape: Shape, spec: TrialSpec, load: Load, kind: str, stack: Stack, dropout: bool) -> float:
    width = DTYPE_BYTES[spec.model.dtype]
    inner = GATED_MLP if shape.is_gated else PLAIN_MLP.get(shape.activation, 2)
    norms = 2 * shape.hidden_size * _norm_width(spec.model, kind)
    tokens = width * inner * shape.intermediate_size + norms
    # The mean per layer, for layers are similar.
    adapters = width * _adapter_numbers(shape, spec, load, stack, dropout) / shape.num_layers
    return adapters + load.tokens * tokens + load.padded * attention_bytes(shape, spec.model, kind)


def _adapter_numbers(shape: Shape, spec: TrialSpec, load: Load, stack: Stack, dropout: bool) -> int:
    """Return how many numbers all adapted linear layers save for backward, padded to the longest of the stack."""
    is_int8 = spec.model.precision == "int8"  # an int8 layer always saves its input
    own = load.tokens * _shared_inputs(shape.linears) if is_int8 else 0
    method = method_of(spec.lora)
    products = stack.tokens * sum(method.num_kept(i, o, stack.rank) for i, o in stack.adapted.values())
    if dropout:  # each linear layer saves its own mask and input
        return own + (load.tokens + stack.tokens) * sum(i for i, _ in stack.adapted.values()) + products
    if is_int8 and stack.tokens == load.tokens:  # without padding it is a view of the layer's saved input
        return own + products
    return own + stack.tokens * _shared_inputs(stack.adapted) + products


def _norm_width(model: ModelSpec, kind: str) -> int:
    """Return the bytes per number that a norm saves: the input on a CPU (`rms_norm`), elsewhere a copy in fp32."""
    return DTYPE_BYTES[model.dtype] if kind == "cpu" else 4


def _shared_inputs(adapted: Mapping[str, tuple[int, int]]) -> int:
    """Return the total width of the inputs that adapters save; a shared input counts once."""
    found = {}
    for path, (inputs, _) in adapted.items():
        parent, _, name = path.rpartition(".")
        found[parent, SHARED.get(part_of(path) or "", name)] = inputs
    return sum(found.values())


def attention_bytes(shape: Shape, model: ModelSpec, kind: str) -> int:
    """Return the bytes that attention saves per padded token: query, key, value, output, and a sum per head."""
    width = 4 if kind == "cpu" else DTYPE_BYTES[model.dtype]
    heads = 2 * shape.num_heads + 2 * shape.num_kv_heads
    return width * heads * shape.head_size + 4 * shape.num_heads


def workspace_bytes(shape: Shape, model: ModelSpec, loads: Sequence[Load], kind: str) -> int:
    """Return the workspace bytes of the operation that needs most in a training step."""
    tokens = sum(load.tokens for load in loads)
    padded = sum(load.padded for load in loads)
    width = DTYPE_BYTES[model.dtype]
    largest = max((i * o for i, o in shape.linears.values()), default=0)
    mlp = tokens * width * (3 * shape.intermediate_size + 2 * shape.hidden_size)
    attention = padded * attention_bytes(shape, model, kind) + tokens * 3 * width * shape.hidden_size
    restored = 0 if model.precision == "none" else largest * width
    return max(mlp, attention, logits_bytes(shape, model, sum(load.labels for load in loads), kind)) + restored


def logits_bytes(shape: Shape, model: ModelSpec, labels: float, kind: str) -> int:
    """Return the head's workspace bytes: a chunk of logits in fp32, its exponentials and, in 16 bits, the original."""
    rows = min(max(1.0, labels), chunk_rows(shape.vocab_size, kind))
    copies = 4 + 4 + (0 if model.dtype == "fp32" else 2)
    return int(rows * shape.vocab_size * copies)
