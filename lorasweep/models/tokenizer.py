"""A base's tokenizer."""

import json
from functools import cached_property
from typing import Any

from lorasweep.core.errors import ModelError
from lorasweep.core.spec import ModelSpec, digest
from lorasweep.data.cache import remembered
from lorasweep.models.info import stored_by_content
from lorasweep.models.shape import model_path

NO_TOKENIZER = "has no tokenizer that can be read"


def load_tokenizer(spec: ModelSpec) -> Any:
    """Return the base's tokenizer, with a pad token."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            model_path(spec.id), revision=spec.revision, trust_remote_code=spec.trust_remote_code
        )
    except (OSError, ValueError, AttributeError, TypeError) as error:  # the last two if a file is missing
        raise ModelError(f"model.id: {spec.id!r} {NO_TOKENIZER}: {error}") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # padding is always masked, so any token works
    return tokenizer


def tokenizer_key(tokenizer: Any) -> str:
    """Return a key for the tokenizer's content."""
    return digest([json.loads(tokenizer.backend_tokenizer.to_str()), tokenizer.chat_template, tokenizer.eos_token_id])


class LazyTokenizer:
    """A base's tokenizer, loaded when it is used. Its key is stored, so rows may come from the cache without it."""

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec

    @cached_property
    def key(self) -> str:
        """The key of the tokenizer's content.

        Raises:
            ModelError: the tokenizer cannot be read.
        """
        stored = stored_by_content(self._spec.id, "tokenizers", self._spec.trust_remote_code)
        return remembered(stored, self._make_key, lambda raw: str(raw["key"]), lambda key: {"key": key})

    def _make_key(self) -> str:
        try:
            return tokenizer_key(self._loaded)
        except AttributeError as error:
            raise ModelError(f"model.id: {self._spec.id!r} {NO_TOKENIZER}: it is no fast tokenizer") from error

    @cached_property
    def _loaded(self) -> Any:
        return load_tokenizer(self._spec)

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self._loaded(*args, **options)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._loaded, name)
