"""When to give a device, or a sweep, up: the same failure again and again is not the trials' fault."""

from collections.abc import Sequence

from lorasweep.core.result import NOT_FINITE, TrialResult, TrialState


class Streak:
    """Counts, on each device, trials in a row that failed for the same reason."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.reasons: dict[str, str] = {}
        self.counts: dict[str, int] = {}

    def note(self, result: TrialResult, device: str) -> None:
        """Take a result in."""
        reason = last_line(result.reason) if result.state is TrialState.FAILED else ""
        if reason.startswith(NOT_FINITE):  # says something about that trial's settings only
            return
        self.counts[device] = self.counts.get(device, 0) + 1 if reason == self.reasons.get(device) else 1
        self.reasons[device] = reason

    def halts(self, devices: Sequence[str]) -> str:
        """Return why the sweep halts: on all of these devices, trials fail for one reason. Empty where it goes on."""
        reasons = {self.reasons.get(device, "") for device in devices}
        count = sum(self.counts.get(device, 0) for device in devices)
        if len(reasons) != 1 or "" in reasons or count < self.most:
            return ""
        return f"{count} trials in a row failed for the same reason: {reasons.pop()}"

    def is_bad(self, device: str) -> bool:
        """Tell whether `most` trials in a row failed for the same reason on a device."""
        return bool(self.reasons.get(device)) and self.counts[device] >= self.most


def last_line(reason: str) -> str:
    """Return what a reason comes to: of a traceback its last line, else the first."""
    lines = [line for line in reason.splitlines() if line.strip()] or [""]
    return lines[-1] if lines[0].startswith("Traceback") else lines[0]
