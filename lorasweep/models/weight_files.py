"""Find missing and damaged weights before training, from the headers of safetensors files.

A safetensors file is eight bytes with the length of its header, the header as JSON, and the tensors
(https://github.com/huggingface/safetensors, "Format"). Only local folders are checked; hub files may not be downloaded.
"""

import json
import re
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

from lorasweep.core.errors import ModelError
from lorasweep.models.shape import BaseInfo, model_path

INDEX, WHOLE = "model.safetensors.index.json", "model.safetensors"
MAX_HEADER_BYTES = 100_000_000  # the limit of safetensors
SHOWN = 3  # tensors or files named in one message
REMEDY = "copy or download it again"


def check_weights(info: BaseInfo) -> None:
    """Check that a base's weight files are complete.

    Raises:
        ModelError: a file is missing, truncated or damaged, or a layer of the configuration has no weights.
    """
    folder = Path(model_path(info.name))
    if not folder.is_dir():
        return
    names: set[str] = set()
    for file in _files(folder):
        names |= _tensors(file)
    if missing := _missing(info.linears, names):
        raise ModelError(f"model.id: {folder} holds no weights for {_some(missing)}; {REMEDY}")


def _files(folder: Path) -> list[Path]:
    """Return the weight files, found as transformers finds them."""
    if (folder / WHOLE).is_file():
        return [folder / WHOLE]
    if not (folder / INDEX).is_file():
        raise ModelError(f"model.id: {folder} holds no {WHOLE}; save the base with save_pretrained, or {REMEDY}")
    try:
        shards = sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"model.id: {folder / INDEX} cannot be read ({error}); {REMEDY}") from error
    if missing := [name for name in shards if not (folder / name).is_file()]:
        raise ModelError(f"model.id: {folder} lacks {_some(missing)}, which {INDEX} names; {REMEDY}")
    return [folder / name for name in shards]


def _tensors(file: Path) -> set[str]:
    """Return the names of a file's tensors; check that the file is as long as its header says."""
    size = file.stat().st_size
    with file.open("rb") as handle:
        start = handle.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else MAX_HEADER_BYTES + 1
        if length > min(MAX_HEADER_BYTES, size - 8):
            raise ModelError(f"model.id: {file} is damaged: it has no safetensors header; {REMEDY}")
        ends = _ends(file, handle.read(length))
    end = 8 + length + max(ends.values(), default=0)
    if size != end:
        raise ModelError(f"model.id: {file} is damaged: its header describes {end:,} bytes, it has {size:,}; {REMEDY}")
    return set(ends)


def _ends(file: Path, header: bytes) -> dict[str, int]:
    """Return the end of each tensor, in bytes after the header."""
    try:
        entries = {name: entry for name, entry in json.loads(header).items() if name != "__metadata__"}
        return {name: int(entry["data_offsets"][1]) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise ModelError(f"model.id: {file} is damaged: its header cannot be read; {REMEDY}") from error


def _missing(paths: Iterable[str], names: set[str]) -> list[str]:
    """Return the linears without weights if the same linear of another layer has weights.

    A linear without weights in every layer is renamed or fused on loading, so it is not reported.
    """
    bare = {name.split(".", 1)[-1] for name in names} | names
    expected = {path: f"{path}.weight" for path in paths}
    found = {path for path, name in expected.items() if name in bare or name.split(".", 1)[-1] in bare}
    known = {_pattern(path) for path in found}
    return [path for path in expected if path not in found and _pattern(path) in known]


def _pattern(path: str) -> str:
    return re.sub(r"\.\d+\.", ".N.", path)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"
