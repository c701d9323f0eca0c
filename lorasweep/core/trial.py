"""A trial: one point of the search space."""

from dataclasses import dataclass, replace

from lorasweep.core.spec import TrialSpec

Scalar = str | int | float | bool
Params = dict[str, Scalar]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A point with its number in the study; `attempt` counts the workers that failed while it ran."""

    number: int
    params: Params
    spec: TrialSpec
    attempt: int = 0

    def retried(self) -> "Trial":
        """Return the trial for its next attempt."""
        return replace(self, attempt=self.attempt + 1)
