"""Load a frozen base at a precision."""

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, fields
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from lorasweep import norms, twin, varlen
from lorasweep.bank import unwrap
from lorasweep.base import DTYPES, Base
from lorasweep.base_info import BaseInfo, config_key, describe, info_of, model_path, read_config
from lorasweep.data.cache import cache_dir
from lorasweep.errors import ModelError
from lorasweep.files import write_json
from lorasweep.paths import Paths
from lorasweep.self_test import LONGEST, examine, windows
from lorasweep.spec import ModelSpec, digest
from lorasweep.tokenizer import load_tokenizer


def load_base(spec: ModelSpec, device: str) -> Base:
    """Load a frozen base, and test which shortcuts it allows.

    Raises:
        ModelError: it cannot be found, has no safetensors weights, or the precision does not work here.
    """
    info = describe(spec.id, spec.revision, spec.trust_remote_code)
    base = make_base(_read_weights(spec, device), load_tokenizer(spec), info, spec, device)
    base.paths = tested_paths(base)
    return base


def make_base(model: Any, tokenizer: Any, info: BaseInfo, spec: ModelSpec, device: str) -> Base:
    """Freeze a model and give it lorasweep's norms and hooks."""
    _keep_trainable_path(model)
    model.requires_grad_(False)
    if device == "cpu":
        norms.exchange(model)
    base = Base(model, tokenizer, info, spec, torch.device(device))
    head = model.get_output_embeddings()
    head.register_forward_pre_hook(base.gather_hidden)
    model.get_input_embeddings().register_forward_pre_hook(base.count_tokens)
    base.has_plain_head = _has_plain_head(base, head)
    return base


def tested_paths(base: Base) -> Paths:
    """Return the shortcuts that both the base itself and a tiny base of its architecture allow, tested once each.

    The tiny one shows in fp32, beyond a short window, what 16 bits or a long window hide.
    """
    config: Any = base.model.config
    where = [base.device.type, base.spec.dtype, base.spec.precision]
    own = _remembered([config_key(config), where], lambda: examine(base))
    expected = twin_paths(config)
    unwrap(base)
    base.empty_cache()  # what the tests took is no trial's need
    paths = own.within(max(windows(config), default=0) <= LONGEST) if expected is None else own.both(expected)
    if paths.own_attention and not varlen.is_installed(base.model):
        varlen.install(base.model)
    if not paths.own_attention and varlen.is_installed(base.model):
        varlen.uninstall(base.model)
    return paths


def twin_paths(config: Any) -> Paths | None:
    """Return the shortcuts that a tiny base of this architecture allows on the CPU; None where none can be made."""
    try:
        return _remembered([config_key(config), "twin"], lambda: _examine_twin(config))
    except Exception:  # sizes that do not suit each other break a tiny base in any way; then the base itself decides
        return None


def _examine_twin(config: Any) -> Paths:
    model: Any = twin.tiny_model(config)
    if model is None:
        raise ModelError("no tiny base of this architecture can be made")
    spec = ModelSpec(id="twin")
    info = info_of(model, model.config, name="twin", fingerprint="")
    return examine(make_base(model, SimpleNamespace(pad_token_id=0), info, spec, "cpu"))


def _remembered(key: object, test: Callable[[], Paths]) -> Paths:
    """Return what a test found before, or test. A damaged file is made anew."""
    path = cache_dir() / "paths" / f"{digest(key)}.json"
    try:
        kept = json.loads(path.read_text())
        return Paths(**{field.name: kept[field.name] for field in fields(Paths)})
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        found = test()
    write_json(path, asdict(found))
    return found


def _read_weights(spec: ModelSpec, device: str) -> Any:
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
            device_map={"": device},  # with None, the quantiser takes CUDA where it finds it
        )
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(f"model.id: {spec.id!r} at precision {spec.precision} cannot be loaded: {error}") from error


def _quantization(spec: ModelSpec) -> Any:
    if spec.precision == "none":
        return None
    from transformers import BitsAndBytesConfig

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # warns at every call of an int8 layer
    if spec.precision == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)  # type: ignore[no-untyped-call]
    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type=spec.precision.removesuffix("_double"),
        bnb_4bit_use_double_quant=spec.precision.endswith("_double"),
        bnb_4bit_compute_dtype=DTYPES[spec.dtype],
    )


def _keep_trainable_path(model: nn.Module) -> None:
    """Stop bitsandbytes from repacking 4-bit weights on AVX512-BF16 hosts in an evaluation pass.

    The repacked layer returns no input gradient, with no error: LoRA gradients are wrong ever after.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


@torch.no_grad()
def _has_plain_head(base: Base, head: Any) -> bool:
    """Try out whether the model does anything to its logits after the head, such as scaling or capping them."""
    if type(head) is not nn.Linear or base.model.base_model is base.model:
        return False
    ids = torch.arange(min(4, base.info.vocab_size), device=base.device)[None]
    hidden = base.model.base_model(input_ids=ids, use_cache=False).last_hidden_state  # type: ignore[operator]
    return torch.equal(head(hidden), base.model(input_ids=ids, use_cache=False).logits)
