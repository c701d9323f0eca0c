"""Load a frozen base at a precision."""

import logging
from typing import Any

import torch
from torch import nn

from lorasweep.core.errors import ModelError
from lorasweep.core.spec import ModelSpec
from lorasweep.models import rms_norm, rotary
from lorasweep.models.base import DTYPES, Base
from lorasweep.models.describe import read_config
from lorasweep.models.info import describe
from lorasweep.models.shape import BaseInfo, model_path
from lorasweep.models.tokenizer import load_tokenizer


def load_untested(spec: ModelSpec, device: str) -> Base:
    """Load a frozen base without testing its shortcuts, which `adapters.load` does.

    Raises:
        ModelError: see `read_model`.
    """
    info = describe(spec.id, spec.revision, spec.trust_remote_code)
    return make_base(read_model(spec, device), load_tokenizer(spec), info, spec, device)


def make_base(model: Any, tokenizer: Any, info: BaseInfo, spec: ModelSpec, device: str) -> Base:
    """Freeze a model, replace its norms and rotations, and register hooks."""
    _keep_trainable_path(model)
    model.requires_grad_(False)
    if device == "cpu":
        rms_norm.replace_norms(model)
    rotary.replace_rotary(model)
    base = Base(model, tokenizer, info, spec, torch.device(device))
    head = model.get_output_embeddings()
    head.register_forward_pre_hook(base.gather_hidden)
    model.get_input_embeddings().register_forward_pre_hook(base.count_tokens)
    base.has_plain_head = _has_plain_head(base, head)
    return base


def read_model(spec: ModelSpec, device: str) -> Any:
    """Return a base as transformers loads it.

    Raises:
        ModelError: it cannot be found, has no safetensors weights, or the precision does not work here.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as transformers_logging

    config = read_config(spec.id, spec.revision, spec.trust_remote_code)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        return AutoModelForCausalLM.from_pretrained(
            model_path(spec.id),
            config=config,
            revision=spec.revision,
            trust_remote_code=spec.trust_remote_code,
            use_safetensors=True,  # pickled weights can run code
            dtype=DTYPES[spec.dtype],
            quantization_config=_quantization(spec),
            device_map={"": device},  # with None, the quantiser uses CUDA if it is available
        )
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(f"model.id: {spec.id!r} at precision {spec.precision} cannot be loaded: {error}") from error


def _quantization(spec: ModelSpec) -> Any:
    if spec.precision == "none":
        return None
    from transformers import BitsAndBytesConfig

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns at every call of an int8 layer
    if spec.precision == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)  # type: ignore[no-untyped-call]
    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type=spec.precision.removesuffix("_double"),
        bnb_4bit_use_double_quant=spec.precision.endswith("_double"),
        bnb_4bit_compute_dtype=DTYPES[spec.dtype],
    )


def _keep_trainable_path(model: nn.Module) -> None:
    """Keep bitsandbytes from repacking 4-bit weights during evaluation on AVX512-BF16 hosts.

    A repacked layer returns no input gradient and raises no error: all later LoRA gradients are wrong.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


@torch.no_grad()
def _has_plain_head(base: Base, head: Any) -> bool:
    """Test whether the model changes its logits after the head, for example by scaling or capping."""
    if type(head) is not nn.Linear or base.model.base_model is base.model:
        return False
    ids = torch.arange(min(4, base.info.vocab_size), device=base.device)[None]
    hidden = base.model.base_model(input_ids=ids, use_cache=False).last_hidden_state  # type: ignore[operator]
    return torch.equal(head(hidden), base.model(input_ids=ids, use_cache=False).logits)
