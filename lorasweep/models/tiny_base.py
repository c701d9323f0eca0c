"""A tiny base of the same architecture, made from a configuration only, for tests that take milliseconds.

Sizes are small, and windows a few tokens; settings that determine the computation (activations, biases, kinds of
layers) are kept.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

WINDOW = 8  # tokens; rows of a test are longer
MAX_LAYERS = 6
MAX_PARAMETERS = 20_000_000  # a configuration with unknown names for its sizes would stay large
VOCABULARY = 96

# The names of sizes in configurations. Names that a configuration lacks are ignored.
SIZES: dict[str, int] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "word_embed_proj_dim", "lru_width"), 64),
    **dict.fromkeys(("attention_hidden_size", "embed_dim", "embedding_size"), 64),
    **dict.fromkeys(
        ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "d_ff", "ffn_intermediate_size"), 128
    ),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size"), 32),
    **dict.fromkeys(("shared_intermediate_size", "moe_shared_expert_intermediate_size"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers", "n_layers", "decoder_layers", "encoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "num_heads", "n_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("swa_num_attention_heads",), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "swa_num_key_value_heads"), 2),
    **dict.fromkeys(("head_dim", "attention_head_dim", "kv_channels", "swa_head_dim", "swa_v_head_dim"), 16),
    **dict.fromkeys(("num_global_key_value_heads",), 2),
    **dict.fromkeys(("global_head_dim",), 16),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx", "max_sequence_length"), 256),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_topk", "top_k_experts"), 2),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "first_k_dense_replace"), 1),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "o_lora_rank", "v_head_dim"), 16),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "rotary_dim"), 8),
    **dict.fromkeys(("sliding_window", "sliding_window_size", "attention_window_size", "window_size"), WINDOW),
    **dict.fromkeys(("local_attention_window", "local_attention", "attention_chunk_size"), WINDOW),
    **dict.fromkeys(("index_n_heads",), 2),
    **dict.fromkeys(("index_head_dim",), 16),
    **dict.fromkeys(("index_topk",), WINDOW),
    **dict.fromkeys(("mamba_d_state", "state_size", "ssm_state_size", "mamba_headdim", "mamba_d_head"), 16),
    **dict.fromkeys(("mamba_head_dim", "mamba_headdim"), 16),
    **dict.fromkeys(("mamba_d_conv", "conv_kernel", "linear_conv_kernel_dim", "mamba_dt_rank", "time_step_rank"), 4),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads"), 8),
    **dict.fromkeys(("mamba_n_groups", "n_groups", "mamba_ngroups"), 1),
    **dict.fromkeys(("mamba_chunk_size", "chunk_size"), WINDOW),
    **dict.fromkeys(("mamba_expand", "n_mamba_heads", "linear_num_key_heads", "full_attention_interval"), 2),
    **dict.fromkeys(("attn_layer_period", "expert_layer_period"), 2),
    **dict.fromkeys(("attn_layer_offset", "expert_layer_offset"), 1),
    **dict.fromkeys(("linear_num_value_heads",), 4),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "hidden_size_per_layer_input"), 16),
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), VOCABULARY),
    **dict.fromkeys(("pad_token_id",), 0),
    **dict.fromkeys(("bos_token_id",), 1),
    **dict.fromkeys(("eos_token_id",), 2),
}
HEADS = ("num_attention_heads", "n_head", "num_heads")
KEY_HEADS = ("num_key_value_heads", "num_kv_heads")
NO_SIZES = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "quantization_config",
            "model_type", "rope_scaling")  # fmt: skip


def tiny_model(config: Any) -> nn.Module | None:
    """Return a small random model of this architecture, in fp32 on the CPU; None if none can be made."""
    for make in (_shrunk, _default):
        try:
            model = random_model(make(config))
        except Exception:  # configurations validate themselves in many ways; try the next one
            continue
        if model is not None:
            return model
    return None


def random_model(config: Any) -> nn.Module | None:
    """Return a model of this configuration with random weights, always the same; None if it would be large."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        sketch: Any = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    if sum(p.numel() for p in sketch.parameters()) > MAX_PARAMETERS:
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
        _enlarge_weights(model)
    model.eval()
    return model  # type: ignore[no-any-return]


@torch.no_grad()
def _enlarge_weights(model: nn.Module) -> None:
    """Enlarge the weights so that tokens affect each other; with the default initialisation they hardly do."""
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and "norm" not in name:
            parameter.normal_(0, 0.08)
    head: Any = model.get_output_embeddings()  # type: ignore[operator]
    if head is not None:
        head.weight.normal_(0, 0.3)


def _default(config: Any) -> Any:
    return type(config)(**_sizes(type(config)().to_dict()))


def _shrunk(config: Any) -> Any:
    return type(config)(**small_settings(config.to_dict()))


def small_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with small sizes and one layer of each kind; other settings are kept."""
    found = {k: v for k, v in settings.items() if k not in NO_SIZES}
    for name, value in found.items():
        if name.endswith("_config") and isinstance(value, Mapping):
            found[name] = small_settings(value)
    return {**found, **_layers(found), **{k: v for k, v in _sizes(found).items() if k not in LAYER_COUNTS}}


LAYER_COUNTS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")


def _layers(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the per-layer lists, cut to one layer of each kind, and the resulting number of layers."""
    name = next((n for n in LAYER_COUNTS if isinstance(settings.get(n), int)), None)
    if name is None:
        return {}
    lists = {k: v for k, v in settings.items() if isinstance(v, list | tuple) and len(v) == settings[name] > 1}
    kinds: dict[str, int] = {}
    for place in range(settings[name] if lists else 0):
        kinds.setdefault(repr([values[place] for values in lists.values()]), place)
    places = list(kinds.values())[:MAX_LAYERS] or [0, 0]
    places = places * 2 if len(places) == 1 else places
    return {name: len(places), **{k: [v[place] for place in places] for k, v in lists.items()}}


def _sizes(settings: Mapping[str, Any]) -> dict[str, Any]:
    # With latent attention the size of a head is that of its rotary part, and every head has its own keys.
    latent = {"head_dim": 8, "num_key_value_heads": 4} if settings.get("kv_lora_rank") else {}
    heads = next((settings[name] for name in HEADS if isinstance(settings.get(name), int)), None)
    # If every head of the base has its own keys, so does every head of the tiny base.
    own_keys = {name: SIZES[HEADS[0]] for name in KEY_HEADS if heads and settings.get(name) == heads}
    return {k: v for k, v in {**SIZES, **latent, **own_keys}.items() if isinstance(settings.get(k), int | float)}
