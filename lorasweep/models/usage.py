"""Find the linears of a base that can carry an adapter: those that are called as linears on the tokens of the batch."""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

# B rows, S tokens, D width

NUM_ROWS, NUM_TOKENS = 3, 7

NOT_CALLED = "the base uses its weight without calling it, so an adapter would have no effect"
NO_LINEAR = "its output does not have the shape of a linear's output"
OTHER_TOKENS = "its input is not the batch's tokens in their order, so the trials of a batch cannot be separated"


def pattern(path: str) -> str:
    """Return the path with layer numbers replaced: `layers.0.mlp` becomes `layers.*.mlp`."""
    return re.sub(r"(?<![A-Za-z_])\d+", "*", path)


def linears(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Return (inputs, outputs) of all linears except the head, including GPT-2's transposed `Conv1D`."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    found: dict[str, tuple[int, int]] = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear) and module is not head:
            found[path] = module.in_features, module.out_features
        elif type(module).__name__ == "Conv1D":
            found[path] = int(module.nx), int(module.nf)
    return found


@torch.no_grad()
def unusable(model: nn.Module) -> dict[str, str]:
    """Return the linears that cannot carry an adapter, by `pattern` of their path, with the reason.

    The model runs on one batch; a usable linear must see all of its tokens.
    """
    reasons: dict[str, str] = {}
    called: set[str] = set()
    ids_BS = torch.arange(NUM_ROWS * NUM_TOKENS).view(NUM_ROWS, NUM_TOKENS) + 3
    with _watched(model, (NUM_ROWS, NUM_TOKENS), called, reasons):
        model(ids_BS, use_cache=False)
    missing = {pattern(path): NOT_CALLED for path in linears(model) if path not in called}
    return reasons | {path: reason for path, reason in missing.items() if path not in reasons}


@contextmanager
def _watched(model: nn.Module, shape: tuple[int, int], called: set[str], reasons: dict[str, str]) -> Iterator[None]:
    watch = partial(_watch, shape, called, reasons)
    hooks = [model.get_submodule(path).register_forward_hook(partial(watch, path)) for path in linears(model)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _watch(
    shape: tuple[int, int], called: set[str], reasons: dict[str, str], path: str, module: Any, args: Any, out: Any
) -> None:
    called.add(path)
    given = args[0].shape
    width = getattr(module, "out_features", None) or module.nf
    if not isinstance(out, Tensor) or out.shape != (*given[:-1], width):
        reasons[pattern(path)] = NO_LINEAR
    elif given[0] != shape[0] and given[:-1] != (shape[0] * shape[1],):
        reasons[pattern(path)] = OTHER_TOKENS


# Projections that stock PEFT treats as parameters of fused experts, by the checkpoint layout of a base.
FUSED_BY_PEFT = {
    "mixtral": ("gate", "w1", "w2", "w3"),
    "qwen2_moe": ("gate", "gate_proj", "up_proj", "down_proj"),
}
# Modules that stock PEFT rejects in bases with Mamba layers.
MAMBA_TYPES = ("falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h")
REFUSED_IN_MAMBA = ("out_proj", "conv1d")
FUSED = "stock PEFT treats this name as the base's fused experts, which lorasweep does not adapt"
REFUSED = "stock PEFT cannot load an adapter of it"


def refused_by_peft(model_type: str, paths: Iterable[str]) -> dict[str, str]:
    """Return the linears whose adapters stock PEFT could not load, by `pattern` of their path, with the reason."""
    from transformers import conversion_mapping

    layout = conversion_mapping._MODEL_TO_CONVERSION_PATTERN.get(model_type, model_type)
    fused = {pattern(p): FUSED for p in paths if p.split(".")[-1] in FUSED_BY_PEFT.get(layout, ())}
    if model_type == "laguna":  # PEFT renames these keys when loading and then finds no such module
        return {pattern(p): REFUSED for p in paths if ".shared_experts." in p}
    if model_type not in MAMBA_TYPES:
        return fused
    return fused | {pattern(p): REFUSED for p in paths if p.split(".")[-1] in REFUSED_IN_MAMBA}


def usable(every: Mapping[str, tuple[int, int]], reasons: Mapping[str, str]) -> dict[str, tuple[int, int]]:
    """Return the linears that can carry an adapter."""
    return {path: size for path, size in every.items() if pattern(path) not in reasons}
