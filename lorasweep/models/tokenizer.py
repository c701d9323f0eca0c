"""A base's tokenizer."""

import json
from typing import Any

from lorasweep.core.errors import ModelError
from lorasweep.core.spec import ModelSpec, digest
from lorasweep.models.info import model_path

NO_TOKENIZER = "has no tokenizer that can be read"


def load_tokenizer(spec: ModelSpec) -> Any:
    """Return the base's tokenizer, with a pad token."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            model_path(spec.id), revision=spec.revision, trust_remote_code=spec.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"model.id: {spec.id!r} {NO_TOKENIZER}: {error}") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # padding is always masked, so any token works
    return tokenizer


def tokenizer_key(tokenizer: Any) -> str:
    """Return a key for the tokenizer's content."""
    return digest([json.loads(tokenizer.backend_tokenizer.to_str()), tokenizer.chat_template, tokenizer.eos_token_id])
