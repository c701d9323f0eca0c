"""Correct predictions by measured peaks, per base, precision and kind of device.

The factor applies to everything except the weights, whose size is known. The cache keeps it for the next sweep.
"""

import json
from pathlib import Path

from lorasweep.core.files import write_json
from lorasweep.core.spec import ModelSpec, covered, digest
from lorasweep.data.cache import cache_dir

LOWEST, HIGHEST = 0.5, 3.0  # one wrong measurement must not make a sweep impossible
NEWEST = 0.2  # least weight of the newest measurement
SMALLEST = 1 << 20  # bytes; the ratio of smaller peaks is noise


class Corrections:
    """Factors by base, precision and kind of device; one file each. A damaged file is replaced."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or cache_dir() / "memory"
        self.known: dict[str, tuple[float, int]] = {}

    def factor(self, fingerprint: str, model: ModelSpec, kind: str) -> float:
        """Return the factor to multiply a prediction by; 1 if nothing was measured yet."""
        return self._read(_key(fingerprint, model, kind))[0]

    def is_known(self, fingerprint: str, model: ModelSpec, kind: str) -> bool:
        """Return whether a peak was measured."""
        return self._read(_key(fingerprint, model, kind))[1] > 0

    def learn(self, fingerprint: str, model: ModelSpec, kind: str, predicted: int, measured: int) -> None:
        """Update the factor with a predicted and a measured peak, in bytes without the weights, and store it."""
        if min(predicted, measured) < SMALLEST:
            return
        key = _key(fingerprint, model, kind)
        factor, count = self._read(key)
        seen = min(HIGHEST, max(LOWEST, measured / predicted))
        weight = max(1 / (count + 1), NEWEST)
        self.known[key] = (factor + weight * (seen - factor), count + 1)
        write_json(self.folder / f"{key}.json", {"factor": self.known[key][0], "count": count + 1})

    def _read(self, key: str) -> tuple[float, int]:
        if key not in self.known:
            self.known[key] = _load(self.folder / f"{key}.json")
        return self.known[key]


# Fields of a base that its corrections do not depend on, each with the reason.
NOT_IN_KEY = {
    "id": "the fingerprint names the weights",
    "revision": "the fingerprint names the weights",
    "trust_remote_code": "the fingerprint names the weights",
}


def _key(fingerprint: str, model: ModelSpec, kind: str) -> str:
    return digest([fingerprint, *covered(model, NOT_IN_KEY).values(), kind])


def _load(path: Path) -> tuple[float, int]:
    try:
        raw = json.loads(path.read_text())
        factor, count = float(raw["factor"]), int(raw["count"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return 1.0, 0
    return (factor, count) if LOWEST <= factor <= HIGHEST and count > 0 else (1.0, 0)
