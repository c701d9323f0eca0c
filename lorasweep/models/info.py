"""What a base is, told from its configuration alone: no weights are read."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from lorasweep.core.errors import ModelError
from lorasweep.core.files import write_json
from lorasweep.core.hub import unreachable_note
from lorasweep.core.provenance import folder_fingerprint
from lorasweep.core.spec import ModelSpec, digest
from lorasweep.data.cache import cache_dir
from lorasweep.models import targets, tiny_base, usage

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
    path = Path(model_path(model_id))
    commit = getattr(config, "_commit_hash", None) or revision or "main"
    fingerprint = folder_fingerprint(path) if path.is_dir() else f"{model_id}@{commit}"
    return info_of(model, config, name=model_id, fingerprint=fingerprint)


def info_of(model: Any, config: Any, *, name: str, fingerprint: str) -> BaseInfo:
    """Return the shape of a model, on whatever device."""
    every = usage.linears(model)
    unusable = unusable_linears(config) | usage.refused_by_peft(config.model_type, every)
    text = config.get_text_config()
    heads = _first(text, "num_attention_heads", "n_head") or 1  # a state-space model has none
    width = _first(text, "hidden_size", "n_embd", "d_model")
    return BaseInfo(
        name=name,
        fingerprint=fingerprint,
        model_type=config.model_type,
        num_parameters=sum(p.numel() for p in model.parameters()),
        linears=usage.usable(every, unusable),
        unusable=unusable,
        fused=tuple(
            dict.fromkeys(usage.pattern(n) for n, p in model.named_parameters() if p.dim() == 3 and "expert" in n)
        ),
        is_transposed=any(type(module).__name__ == "Conv1D" for module in model.modules()),
        num_layers=_first(text, "num_hidden_layers", "n_layer", "num_layers"),
        hidden_size=width,
        intermediate_size=_widest(_first(text, "intermediate_size", "ffn_dim", "ffn_hidden_size", "n_inner"))
        or 4 * width,
        num_heads=heads,
        num_kv_heads=_first(text, "num_key_value_heads") or heads,
        head_size=_first(text, "head_dim") or width // heads,
        activation=str(_first(text, "hidden_act", "activation_function", "activation") or ""),
        vocab_size=text.vocab_size,
    )


def unusable_linears(config: Any) -> dict[str, str]:
    """Return the linears that carry no adapter, tried out once on a tiny model of the same architecture."""
    path = cache_dir() / "linears" / f"{config_key(config)}.json"
    try:
        return {str(k): str(v) for k, v in json.loads(path.read_text()).items()}
    except (OSError, ValueError, AttributeError, RecursionError):
        found = _tried(config)
    write_json(path, found)
    return found


def _tried(config: Any) -> dict[str, str]:
    model = tiny_base.tiny_model(config)
    try:
        return usage.unusable(model) if model is not None else {}
    except Exception:  # a model that a tiny size breaks tells nothing; the base itself is tested when it is loaded
        return {}


def config_key(config: Any) -> str:
    """Name an architecture and its shape, as this version of the libraries computes it."""
    named = ("_name_or_path", "_commit_hash", "transformers_version", "dtype", "architectures")
    shape = {k: v for k, v in config.to_dict().items() if k not in named}
    return digest([shape, torch.__version__, metadata.version("transformers"), FORMAT])


FORMAT = 2  # raise it when what is tried out changes


def _widest(sizes: Any) -> Any:
    """Return one width where an architecture has one per layer."""
    return max(sizes, default=None) if isinstance(sizes, list | tuple) else sizes


def resolve_targets(spec: ModelSpec, names: str | tuple[str, ...]) -> tuple[str, ...]:
    """Return the module suffixes that a preset or list means for this base."""
    names = (names,) if isinstance(names, str) else names
    info = describe(spec.id, spec.revision, spec.trust_remote_code)
    return targets.resolve(names, info.linears, spec.id, info.unusable)


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
    away = "" if Path(path).is_dir() else unreachable_note()
    try:
        config = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"model.id: {model_id!r} cannot be read as a folder or a hub model: {reason}{away}") from error
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
    return next((value for name in names if (value := _setting(config, name))), None)


def _setting(config: Any, name: str) -> Any:
    """Return a setting; of one that varies by layer, the first layer's."""
    try:
        return getattr(config, name, None)
    except AttributeError:
        return None
    except RuntimeError:  # transformers refuses a setting that has a value per layer
        return getattr(config.per_layer_config[0], name, None)
