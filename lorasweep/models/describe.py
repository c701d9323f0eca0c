"""Find out a base's shape from its configuration, with transformers: no weights are read."""

from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from lorasweep.core.errors import ModelError
from lorasweep.core.hub import unreachable_note
from lorasweep.core.provenance import folder_fingerprint
from lorasweep.core.spec import digest
from lorasweep.data.cache import cache_dir, remembered
from lorasweep.models import tiny_base, usage
from lorasweep.models.shape import FORMAT, BaseInfo, model_path


def read_info(model_id: str, revision: str | None, trust_remote_code: bool) -> BaseInfo:
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
    file = cache_dir() / "linears" / f"{config_key(config)}.json"
    return remembered(file, lambda: _tried(config), lambda raw: {str(k): str(v) for k, v in raw.items()}, dict)


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


def _widest(sizes: Any) -> Any:
    """Return one width where an architecture has one per layer."""
    return max(sizes, default=None) if isinstance(sizes, list | tuple) else sizes


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
