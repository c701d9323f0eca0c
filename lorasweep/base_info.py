"""What a base is, told from its configuration alone: no weights are read."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lorasweep import targets
from lorasweep.errors import ModelError
from lorasweep.provenance import folder_fingerprint
from lorasweep.spec import ModelSpec

DEMO = Path(__file__).resolve().parent / "demo" / "base"


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

    def num_trainable(self, target_modules: tuple[str, ...], rank: int) -> int:
        """Return the adapter's parameters: r (d_in + d_out) per adapted matrix (arXiv 2106.09685, section 4.2)."""
        return sum(rank * (i + o) for i, o in self.adapted(target_modules).values())


@lru_cache(maxsize=8)
def describe(model_id: str, revision: str | None = None, trust_remote_code: bool = False) -> BaseInfo:
    """Return a base's shape.

    Raises:
        ModelError: there is no such folder or hub id, or it is not a causal language model.
    """
    from transformers import AutoModelForCausalLM

    config = read_config(model_id, revision, trust_remote_code)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            config, trust_remote_code=trust_remote_code
        )
        model.tie_weights()  # so that shared embeddings are counted once
    text = config.get_text_config()
    path = Path(model_path(model_id))
    commit = getattr(config, "_commit_hash", None) or revision or "main"
    return BaseInfo(
        name=model_id,
        fingerprint=folder_fingerprint(path) if path.is_dir() else f"{model_id}@{commit}",
        model_type=config.model_type,
        num_parameters=sum(p.numel() for p in model.parameters()),
        linears=_linears(model),
        num_layers=text.num_hidden_layers,
        hidden_size=text.hidden_size,
        intermediate_size=_first(text, "intermediate_size", "ffn_dim", "ffn_hidden_size", "n_inner")
        or 4 * text.hidden_size,
        num_heads=text.num_attention_heads,
        num_kv_heads=_first(text, "num_key_value_heads") or text.num_attention_heads,
        head_size=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
        activation=str(_first(text, "hidden_act", "activation_function", "activation") or ""),
        vocab_size=text.vocab_size,
    )


def resolve_targets(spec: ModelSpec, names: str | tuple[str, ...]) -> tuple[str, ...]:
    """Return the module suffixes that a preset or list means for this base."""
    info = describe(spec.id, spec.revision, spec.trust_remote_code)
    return targets.resolve(names, info.linears, spec.id)


def read_config(model_id: str, revision: str | None, trust_remote_code: bool) -> Any:
    """Return a base's configuration, without dropout.

    Raises:
        ModelError: there is no such folder or hub id, or it cannot be read.
    """
    from transformers import AutoConfig

    path = model_path(model_id)
    if not Path(path).is_dir() and (model_id.startswith((".", "/", "~")) or model_id.count("/") > 1):
        raise ModelError(
            f"model.id: there is no folder {model_id!r}; give a folder, a hub id such as org/name, or demo"
        )
    if any(Path(path).glob("*.bin")) and not any(Path(path).glob("*.safetensors")):
        raise ModelError(f"model.id: {model_id!r} holds pickled weights alone, which can run code; save *.safetensors")
    try:
        config = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"model.id: {model_id!r} cannot be read as a folder or a hub model: {reason}") from error
    return _without_dropout(config)


def model_path(model_id: str) -> str:
    """Return what `from_pretrained` is given: a folder, or a hub id."""
    if model_id == "demo":
        return str(DEMO)
    folder = Path(model_id).expanduser()
    return str(folder) if folder.is_dir() else model_id


def _without_dropout(config: Any) -> Any:
    """A frozen base needs no regulariser; its dropout would make trials depend on their neighbours in a batch."""
    for name, value in list(vars(config).items()):
        if isinstance(value, float) and (name.endswith("dropout") or name.endswith("pdrop")):
            setattr(config, name, 0.0)
    return config


def _first(config: Any, *names: str) -> Any:
    """Return the first of these settings that a configuration has: architectures call the same thing differently."""
    return next((value for name in names if (value := getattr(config, name, None))), None)


def _linears(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Return (inputs, outputs) of all that LoRA can adapt: linears, and GPT-2's transposed `Conv1D`."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    found: dict[str, tuple[int, int]] = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear) and module is not head:
            found[path] = module.in_features, module.out_features
        elif type(module).__name__ == "Conv1D":
            found[path] = module.nx, module.nf
    return found
