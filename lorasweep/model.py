"""Load a frozen base and its tokenizer at a precision, and know its shape without loading it."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lorasweep import norms, targets, varlen
from lorasweep.data.batches import PackedBatch
from lorasweep.errors import ModelError
from lorasweep.provenance import folder_fingerprint
from lorasweep.spec import ModelSpec

# B rows, S tokens, T label positions, V vocabulary

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
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
    max_positions: int
    has_tied_embeddings: bool

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


def model_path(model_id: str) -> str:
    """Return what `from_pretrained` is given: a folder, or a hub id."""
    if model_id == "demo":
        return str(DEMO)
    folder = Path(model_id).expanduser()
    return str(folder) if folder.is_dir() else model_id


@lru_cache(maxsize=8)
def describe(model_id: str, revision: str | None = None, trust_remote_code: bool = False) -> BaseInfo:
    """Return a base's shape from its configuration alone; no weights are read.

    Raises:
        ModelError: there is no such folder or hub id, or it is not a causal language model.
    """
    from transformers import AutoModelForCausalLM

    config = _config(model_id, revision, trust_remote_code)
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
        max_positions=getattr(text, "max_position_embeddings", 0) or 0,
        has_tied_embeddings=bool(getattr(text, "tie_word_embeddings", False)),
    )


def _first(config: Any, *names: str) -> Any:
    """Return the first of these settings that a configuration has: architectures call the same thing differently."""
    return next((value for name in names if (value := getattr(config, name, None))), None)


def resolve_targets(spec: ModelSpec, names: str | tuple[str, ...]) -> tuple[str, ...]:
    """Return the module suffixes that a preset or list means for this base."""
    info = describe(spec.id, spec.revision, spec.trust_remote_code)
    return targets.resolve(names, info.linears, spec.id)


def _config(model_id: str, revision: str | None, trust_remote_code: bool) -> Any:
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


def _without_dropout(config: Any) -> Any:
    """A frozen base needs no regulariser; its dropout would make trials depend on their neighbours in a batch."""
    for name, value in list(vars(config).items()):
        if isinstance(value, float) and (name.endswith("dropout") or name.endswith("pdrop")):
            setattr(config, name, 0.0)
    return config


def _linears(model: nn.Module) -> dict[str, tuple[int, int]]:
    head = model.get_output_embeddings()  # type: ignore[operator]
    return {name: shape(m) for name, m in model.named_modules() if is_linear(m) and m is not head}


def is_linear(module: nn.Module) -> bool:
    """Tell whether LoRA can adapt the module: `nn.Linear`, its quantised kinds, or GPT-2's transposed `Conv1D`."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def shape(module: nn.Module) -> tuple[int, int]:
    """Return a linear's (inputs, outputs)."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    return module.nx, module.nf  # type: ignore[return-value]


@dataclass(slots=True)
class Base:
    """A frozen model in memory."""

    model: nn.Module
    tokenizer: Any
    info: BaseInfo
    spec: ModelSpec
    device: torch.device
    is_flat: bool = False  # whether rows of a training batch can lie end to end
    has_plain_head: bool = False  # whether logits are the head's product and nothing more
    _gather: tuple[Tensor, Tensor] | None = None

    @property
    def pad_id(self) -> int:
        return int(self.tokenizer.pad_token_id)

    def label_logits(self, ids_BS: Tensor, row_T: Tensor, column_T: Tensor) -> Tensor:
        """Return the logits_TV at these positions only: prompt tokens carry no loss, so theirs are never computed."""
        return self._logits((row_T, column_T), input_ids=ids_BS)

    def packed_logits(self, packed: PackedBatch) -> Tensor:
        """Return the logits_TV at a batch's label positions."""
        return self._logits((packed.row_T, packed.column_T), **self._inputs(packed))

    def packed_hidden(self, packed: PackedBatch) -> Tensor:
        """Return what the head is given at a batch's label positions, hidden_TD."""
        hidden_BSD: Tensor = self.model.base_model(use_cache=False, **self._inputs(packed)).last_hidden_state  # type: ignore[operator]
        return hidden_BSD[packed.row_T, packed.column_T]

    def tree_logits(
        self, ids_BS: Tensor, positions_BS: Tensor, mask_B1SS: Tensor, row_T: Tensor, column_T: Tensor
    ) -> Tensor:
        """Return logits_TV of rows whose tokens see what the mask says."""
        return self._logits((row_T, column_T), input_ids=ids_BS, position_ids=positions_BS, attention_mask=mask_B1SS)

    def _logits(self, gather: tuple[Tensor, Tensor], **inputs: Any) -> Tensor:
        self._gather = gather
        try:
            logits: Tensor = self.model(use_cache=False, **inputs).logits
        finally:
            self._gather = None
        return logits

    def _inputs(self, packed: PackedBatch) -> dict[str, Any]:
        """Return the model's arguments; rows of a flat batch do not see each other.

        A mask of four dimensions is passed on as it is; it keeps transformers from building one of T x T.
        """
        if not packed.is_flat:
            return {"input_ids": packed.ids_BS}
        return {
            "input_ids": packed.ids_BS,
            "position_ids": packed.position_BS,
            "attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool, device=self.device),
            "lorasweep_rows": varlen.Rows.of(list(packed.lengths)).to(self.device),
        }

    @property
    def can_mask_freely(self) -> bool:
        """Tell whether attention takes an arbitrary mask; fused kernels know causal ones only."""
        return bool(getattr(self.model.config, "_attn_implementation", "") in ("sdpa", varlen.NAME))

    def gather_hidden(self, _module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """Hand only the wanted positions to the head, before it and whatever the model does to its logits run."""
        if self._gather is None:
            return None
        hidden_BSD = args[0]
        return (hidden_BSD[self._gather[0], self._gather[1]], *args[1:])


def load_base(spec: ModelSpec, device: str) -> Base:
    """Load a frozen base.

    Raises:
        ModelError: it cannot be found, has no safetensors weights, or the precision does not work here.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as transformers_logging

    info = describe(spec.id, spec.revision, spec.trust_remote_code)
    config = _config(spec.id, spec.revision, spec.trust_remote_code)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        model = AutoModelForCausalLM.from_pretrained(
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
    _keep_trainable_path(model)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    if device == "cpu":
        norms.exchange(model)
    base = Base(model, load_tokenizer(spec), info, spec, torch.device(device), is_flat=varlen.install(model))
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    head.register_forward_pre_hook(base.gather_hidden)
    base.has_plain_head = _has_plain_head(base, head)
    return base


@torch.no_grad()
def _has_plain_head(base: Base, head: Any) -> bool:
    """Try out whether the model does anything to its logits after the head, such as scaling or capping them."""
    if type(head) is not nn.Linear:
        return False
    ids = torch.arange(min(4, base.info.vocab_size), device=base.device)[None]
    hidden = base.model.base_model(input_ids=ids, use_cache=False).last_hidden_state  # type: ignore[operator]
    return torch.equal(head(hidden), base.model(input_ids=ids, use_cache=False).logits)


def load_tokenizer(spec: ModelSpec) -> Any:
    """Return the base's tokenizer, with a pad token."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            model_path(spec.id), revision=spec.revision, trust_remote_code=spec.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"model.id: {spec.id!r} has no tokenizer that can be read: {error}") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # masked everywhere, so any token will do
    return tokenizer


def tokenizer_key(tokenizer: Any) -> str:
    """Name a tokenizer by its content."""
    from lorasweep.spec import digest

    return digest([json.loads(tokenizer.backend_tokenizer.to_str()), tokenizer.chat_template, tokenizer.eos_token_id])


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
