"""Where a number came from: commit, package versions, and a fingerprint of a model folder."""

import hashlib
import platform
import subprocess
from importlib import metadata
from pathlib import Path

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "optuna", "mlflow", "hydra-core", "datasets")
SAMPLE_BYTES = 1 << 20


def folder_fingerprint(folder: Path) -> str:
    """Return a fingerprint of a model folder: names, sizes and both ends of its files (fast for weights)."""
    state = hashlib.sha256()
    for file in sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")):
        size = file.stat().st_size
        state.update(f"{file.relative_to(folder)}\0{size}\0".encode())
        with file.open("rb") as handle:
            state.update(handle.read(SAMPLE_BYTES))
            handle.seek(max(0, size - SAMPLE_BYTES))
            state.update(handle.read(SAMPLE_BYTES))
    return state.hexdigest()[:16]


def provenance() -> dict[str, str]:
    """Return the commit, the Python version, the platform and the versions of relevant packages."""
    versions = {f"version.{name}": _version(name) for name in PACKAGES}
    return {"commit": commit(), "python": platform.python_version(), "platform": platform.platform(), **versions}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def commit() -> str:
    """Return the commit of the working directory, with `-dirty` appended if files differ; `none` outside git."""
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True)
        state = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "none"
    return head.stdout.strip() + ("-dirty" if state.stdout.strip() else "")
