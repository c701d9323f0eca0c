"""A trial: one point of the search space."""

from dataclasses import dataclass, replace

from lorasweep.core.spec import TrialSpec, has_effect

Scalar = str | int | float | bool
Params = dict[str, Scalar]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A point with its number in the study; `attempt` counts the workers that failed while it ran."""

    number: int
    params: Params
    spec: TrialSpec
    attempt: int = 0

    @property
    def effective(self) -> Params:
        """The parameters that have an effect on this trial."""
        return {key: value for key, value in self.params.items() if has_effect(self.spec, key)}

    @property
    def text(self) -> str:
        """The parameters as text: `r=8 lora_alpha=16`."""
        return " ".join(f"{short_name(key)}={_written(value)}" for key, value in self.effective.items())

    def retried(self) -> "Trial":
        """Return the trial for its next attempt."""
        return replace(self, attempt=self.attempt + 1)


def short_name(key: str) -> str:
    """Return the last part of a setting's name: `r` for `lora.r`."""
    return key.split(".")[-1]


def _written(value: Scalar) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
