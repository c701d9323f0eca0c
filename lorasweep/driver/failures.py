"""Decide when to stop using a device and when to halt a sweep, because repeated failures are not the trials' fault."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeGuard

from lorasweep.core.errors import is_device_error
from lorasweep.core.messages import Event, Finished
from lorasweep.core.result import TrialState

if TYPE_CHECKING:
    from lorasweep.driver.worker_handle import WorkerHandle

UNRELIABLE_AFTER = 2  # consecutive failures of a device


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A failure of a device while these trials ran; `is_from_outside` if another process killed its worker."""

    reason: str
    numbers: frozenset[int]
    is_from_outside: bool = False


def is_device_failure(event: Event) -> TypeGuard[Finished]:
    """Return whether a trial ended because its device failed, so that it must be retried."""
    return (
        isinstance(event, Finished) and event.result.state is TrialState.FAILED and is_device_error(event.result.reason)
    )


def same_failure_everywhere(handles: Sequence["WorkerHandle"], most: int) -> str:
    """Return why the sweep must halt: `most` trials in a row failed for one reason on all these devices. Else empty."""
    reasons = {handle.last_error for handle in handles}
    count = sum(handle.num_same_errors for handle in handles)
    if len(reasons) != 1 or "" in reasons or count < most:
        return ""
    return f"{count} trials in a row failed for the same reason: {reasons.pop()}"


def no_device_works(handles: Sequence["WorkerHandle"], most: int) -> str:
    """Return why no device is worth a retry; empty if one is.

    Since it last worked, every device failed at least twice, with different trials, and either all devices together
    failed `most` times for the same reason, or each of them `most` times.
    """
    failures = [failure for handle in handles for failure in handle.failures]
    trials = {number for failure in failures for number in failure.numbers}
    fewest = min((len(handle.failures) for handle in handles), default=0)
    is_same = len({_without_numbers(failure.reason) for failure in failures}) == 1 and len(failures) >= most
    if len(trials) < 2 or fewest < UNRELIABLE_AFTER or not (is_same or fewest >= most):
        return ""
    each = "; ".join(f"{h.device} {len(h.failures)} times, most recently it {h.failures[-1].reason}" for h in handles)
    return f"no device works any more ({each}); no trial is lost, run the same command to try again"


def last_line(reason: str) -> str:
    """Return the last line of a traceback, or the first line of any other reason."""
    lines = [line for line in reason.splitlines() if line.strip()] or [""]
    return lines[-1] if lines[0].startswith("Traceback") else lines[0]


def _without_numbers(reason: str) -> str:
    """Replace numbers, which differ between failures: process ids, addresses, seconds."""
    return re.sub(r"0x[0-9a-f]+|\d+(\.\d+)?", "#", reason)
