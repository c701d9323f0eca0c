"""Which shortcuts a base allows, in values and in words."""

from dataclasses import dataclass, replace
from typing import Literal

# How all options of a question share one reading of its prompt. In one row, kept apart by lorasweep's own masks, or by
# one that the model is given, boolean or added to the attention scores; or by copies of the prompt's cache. Or they do
# not, and every option has a row of its own.
OptionForm = Literal["layout", "mask", "bias", "cache", "none"]
# How answers are written: prompts padded on the left; prompts of one length at a time; the same without a cache.
Generation = Literal["padded", "one_length", "no_cache"]
GENERATIONS: tuple[Generation, ...] = ("padded", "one_length", "no_cache")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortcuts:
    """What gives the same numbers as rows one at a time."""

    own_attention: bool = False  # lorasweep's attention gives what the base's own gives
    is_flat: bool = False  # rows of a training batch can lie end to end
    option_form: OptionForm = "none"
    can_pad: bool = True  # rows of different lengths can share a batch
    generation: Generation = "no_cache"  # how prompts are continued together

    def both(self, other: "Shortcuts") -> "Shortcuts":
        """Return the shortcuts that both allow."""
        return Shortcuts(
            own_attention=self.own_attention and other.own_attention,
            is_flat=self.is_flat and other.is_flat,
            option_form=self.option_form if self.option_form == other.option_form else "none",
            can_pad=self.can_pad and other.can_pad,
            generation=max(self.generation, other.generation, key=GENERATIONS.index),
        )

    def within(self, is_tested: bool) -> "Shortcuts":
        """Return what is left where no row was longer than a window: masks that know nothing of it are not trusted."""
        if is_tested or self.option_form not in ("mask", "bias"):
            return self
        return replace(self, option_form="none")

    @property
    def slow_ways(self) -> tuple[str, ...]:
        """Say what is done the slow way; nothing where no shortcut is missing."""
        found = []
        if not self.can_pad:
            found.append("training and evaluation take one row at a time")
        elif not self.is_flat:
            found.append("training rows are padded")
        if self.option_form == "none":
            found.append("each option is scored in a row of its own")
        if self.generation != "padded":
            found.append("answers are written for prompts of one length at a time")
        if self.generation == "no_cache":
            found.append("answers are written without a cache")
        return tuple(found)
