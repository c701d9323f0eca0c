"""Presets of target modules, resolved for each architecture.

`qv` is `q_proj, v_proj` in a Llama and `c_attn` in a GPT-2, whose q, k and v are one matrix. Names follow PEFT's
rule: a module is adapted if its path ends with the target.
"""

import difflib
from collections.abc import Iterable, Mapping

from lorasweep.core.errors import ModelError

# The role of a linear, by its name, or by its parent's name and its own.
PARTS = {
    "q": ("q_proj", "query", "wq", "attention.q"),
    "k": ("k_proj", "key", "wk", "attention.k"),
    "v": ("v_proj", "value", "wv", "attention.v"),
    "qkv": ("c_attn", "query_key_value", "qkv_proj", "Wqkv", "attn.qkv"),
    "o": ("o_proj", "out_proj", "attn.c_proj", "attention.dense", "self_attention.dense", "self_attn.dense", "wo"),
    "gate": ("gate_proj", "mlp.w1"),
    "up": ("up_proj", "fc1", "c_fc", "fc_in", "dense_h_to_4h", "mlp.w3"),
    "gate_up": ("gate_up_proj",),
    "down": ("down_proj", "fc2", "mlp.c_proj", "fc_out", "dense_4h_to_h", "mlp.w2"),
}
FUSED = {"q": "qkv", "k": "qkv", "v": "qkv", "gate": "gate_up", "up": "gate_up"}

PRESETS: dict[str, tuple[str, ...]] = {
    "q": ("q",),
    "qv": ("q", "v"),
    "qkv": ("q", "k", "v"),
    "attention": ("q", "k", "v", "o"),
    "qvud": ("q", "v", "up", "down"),
    "mlp": ("gate", "up", "down"),
    "all-linear": (),
}


def resolve(
    targets: tuple[str, ...], linears: Iterable[str], model: str, unusable: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    """Return the sorted module suffixes of a list of modules, or of a preset alone, for a model with these linears.

    `unusable` maps linears that cannot carry an adapter to the reason; presets skip them.

    Raises:
        ModelError: a name is neither a preset nor a module of the model (lists both), or its module cannot carry an
            adapter.
    """
    suffixes = _suffixes(linears, unusable or ())
    if len(targets) == 1 and targets[0] in PRESETS:
        return _preset(targets[0], suffixes, model, unusable or {})
    unknown = [n for n in targets if not any(matches(path, n) for path in suffixes)]
    for name, reason in ((n, r) for n in unknown for path, r in (unusable or {}).items() if matches(path, n)):
        raise ModelError(f"lora.target_modules: {name} of {model} cannot carry an adapter: {reason}; leave it out")
    if unknown:
        raise ModelError(_unknown_module(unknown, sorted(set(suffixes.values())), model))
    return _shortest(targets, suffixes)


def _shortest(names: Iterable[str], suffixes: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names that a preset would use for these modules, so that equal lists and presets are equal trials."""
    chosen = {path for path in suffixes if any(matches(path, n) for n in names)}
    short = {suffixes[path] for path in chosen}
    is_same = chosen == {path for path in suffixes if any(matches(path, s) for s in short)}
    return tuple(sorted(short if is_same else set(names)))


def matches(path: str, target: str) -> bool:
    """Return whether PEFT would adapt the module at `path` for this target."""
    return path == target or path.endswith(f".{target}")


def part_of(path: str) -> str | None:
    """Return the role of the linear at `path`, None if its name is unknown."""
    for part, names in PARTS.items():
        if any(matches(path, name) for name in names):
            return part
    return None


def _preset(name: str, suffixes: Mapping[str, str], model: str, unusable: Mapping[str, str]) -> tuple[str, ...]:
    if name == "all-linear":
        return tuple(sorted(set(suffixes.values())))
    by_part: dict[str, set[str]] = {}
    for path, suffix in suffixes.items():
        by_part.setdefault(part_of(path) or "", set()).add(suffix)
    parts = {part: by_part.get(part) or by_part.get(FUSED.get(part, ""), set()) for part in PRESETS[name]}
    # Many MLPs have no gate; with any other missing part the preset would silently be a different one.
    missing = [part for part, found in parts.items() if not found and part != "gate"]
    if missing:
        known = ", ".join(sorted(set(suffixes.values())))
        reasons = dict.fromkeys(f" ({path}: {why})" for path, why in unusable.items() if part_of(path) in missing)
        known += "".join(reasons)
        raise ModelError(f"lora.target_modules: {model} has no module for {', '.join(missing)} of the preset {name!r}; "
                         f"it has {known}; name some of these modules")  # fmt: skip
    return tuple(sorted(set().union(*parts.values())))


def _suffixes(linears: Iterable[str], unusable: Iterable[str] = ()) -> dict[str, str]:
    """Map each linear's path to its last words, as few as identify it.

    A name must not be a number, must have a single role, and must not match a linear that cannot carry an adapter.
    """
    paths = list(linears)
    parts: dict[str, set[str | None]] = {}
    for path in paths:
        parts.setdefault(path.split(".")[-1], set()).add(part_of(path))

    def is_enough(words: list[str]) -> bool:
        if len(words) == 1 and (words[0].isdigit() or len(parts[words[0]]) > 1):
            return False
        return not any(matches(other, ".".join(words)) for other in unusable)

    def name(path: str) -> str:
        words = path.split(".")
        return next((".".join(words[-n:]) for n in range(1, len(words)) if is_enough(words[-n:])), path)

    return {path: name(path) for path in paths}


def _unknown_module(unknown: list[str], known: list[str], model: str) -> str:
    close = difflib.get_close_matches(unknown[0], [*known, *PRESETS], n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    names = ", ".join(map(repr, unknown))
    there = f"it has {', '.join(known)}; presets: {', '.join(PRESETS)}"
    return f"lora.target_modules: {model} has no module {names}{hint}; {there}"
