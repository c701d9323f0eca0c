"""When to give a sweep up: the same failure again and again is not the trials' fault."""

from lorasweep.result import NOT_FINITE, TrialResult, TrialState


class Streak:
    """Counts trials in a row that failed for the same reason."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.reason = ""
        self.count = 0

    def note(self, result: TrialResult) -> str:
        """Take a result in; return why the sweep halts, empty where it goes on."""
        if result.state is not TrialState.FAILED:
            self.reason, self.count = "", 0
            return ""
        lines = [line for line in result.reason.splitlines() if line.strip()] or [""]
        reason = lines[-1] if lines[0].startswith("Traceback") else lines[0]
        if reason.startswith(NOT_FINITE):  # says something about that trial's settings only
            return ""
        self.count = self.count + 1 if reason == self.reason else 1
        self.reason = reason
        if self.count < self.most:
            return ""
        return f"{self.count} trials in a row failed for the same reason: {reason}"
