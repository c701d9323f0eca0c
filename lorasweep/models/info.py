"""The shape of a base. It is found out once per content of a folder, and later read without torch and transformers."""

from dataclasses import asdict, replace
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from lorasweep.core.provenance import folder_fingerprint
from lorasweep.core.spec import ModelSpec, digest
from lorasweep.data.cache import cache_dir, remembered
from lorasweep.models import targets
from lorasweep.models.shape import FORMAT, BaseInfo, model_path


@lru_cache(maxsize=8)
def describe(model_id: str, revision: str | None = None, trust_remote_code: bool = False) -> BaseInfo:
    """Return a base's shape.

    Raises:
        ModelError: there is no such folder or hub id, or it is not a causal language model.
    """

    def read() -> BaseInfo:
        from lorasweep.models.describe import read_info  # imports torch, which takes a second

        return read_info(model_id, revision, trust_remote_code)

    stored = stored_by_content(model_id, "bases", trust_remote_code)
    return replace(remembered(stored, read, _from_json, asdict), name=model_id)


def stored_by_content(model_id: str, kind: str, *more: object) -> Path | None:
    """Return a cache file for what follows from a local folder's files and from the library; None for a hub id."""
    folder = Path(model_path(model_id))
    if not folder.is_dir():
        return None
    return cache_dir() / kind / f"{digest([folder_fingerprint(folder), *library_versions(), FORMAT, *more])}.json"


def library_versions() -> tuple[str, ...]:
    """Return the versions of the libraries that read a base."""
    return tuple(metadata.version(name) for name in ("torch", "transformers", "peft"))


def _from_json(raw: dict[str, Any]) -> BaseInfo:
    linears = {str(path): (int(inputs), int(outputs)) for path, (inputs, outputs) in raw["linears"].items()}
    return BaseInfo(**{**raw, "linears": linears, "fused": tuple(raw["fused"])})


def resolve_targets(spec: ModelSpec, names: str | tuple[str, ...]) -> tuple[str, ...]:
    """Return the module suffixes that a preset or list means for this base."""
    names = (names,) if isinstance(names, str) else names
    info = describe(spec.id, spec.revision, spec.trust_remote_code)
    return targets.resolve(names, info.linears, spec.id, info.unusable)
