"""Format values for people, the same in every report. A missing value is a dash, never a zero."""

import math
import re

from evaluation.statistics import Interval
from lorasweep.core.sizes import GIB, KIB, MIB

MISSING = "—"
UNITS = (("GiB", GIB), ("MiB", MIB), ("KiB", KIB))
SCALES = ((1e9, "B"), (1e6, "M"))
# Control characters (a terminal would execute them) and lone surrogates (UTF-8 cannot encode them).
UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: object) -> str:
    """Return text that is safe to print and to write; line breaks are kept."""
    return UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", str(text).replace("\r\n", "\n"))


def one_line(text: object) -> str:
    return " ".join(printable(text).split())


def score(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.4g}"


def percent(share: float | None) -> str:
    """Write a share with its sign: +3.2 %. For a drop, positive is worse."""
    if share is None or not math.isfinite(share):
        return MISSING
    return f"{rounded:+.1f} %" if (rounded := round(100 * share, 1)) else "0.0 %"


def drop(interval: Interval | None) -> str:
    """Write a relative drop with its interval if that is known: +34.7 % (30.1 to 39.0)."""
    if interval is None:
        return MISSING
    if not (math.isfinite(interval.low) and math.isfinite(interval.high)):
        return percent(interval.value)
    return f"{percent(interval.value)} ({100 * interval.low:.1f} to {100 * interval.high:.1f})"


def size(num_bytes: float) -> str:
    """Write bytes; 0 means not measured."""
    if not num_bytes:
        return MISSING
    for unit, worth in UNITS:
        if num_bytes >= worth:
            return f"{num_bytes / worth:.3g} {unit}" if num_bytes < 1000 * worth else f"{num_bytes / worth:.0f} {unit}"
    return f"{num_bytes:.0f} B"


def count(number: float) -> str:
    """Write a number of parameters, in full below a million."""
    if not number:
        return MISSING
    for worth, unit in SCALES:
        if number >= worth:
            return f"{number / worth:.2f} {unit}"
    return f"{number:,}"


def share_of_model(percentage: float) -> str:
    return f"{percentage:.3g} %" if percentage else MISSING


def rate(per_second: float) -> str:
    if not per_second:
        return MISSING
    return f"{per_second:,.0f}" if per_second >= 100 else f"{per_second:.3g}"


def duration(seconds: float) -> str:
    if not seconds:
        return MISSING
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} m {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} m"


def setting(value: object) -> str:
    """Write a setting as in a configuration; sampled numbers keep three digits."""
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(setting(v) for v in value)
    return one_line(value)
