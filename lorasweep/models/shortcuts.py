"""The shortcuts that a base allows, and the passes that are slow without them."""

from dataclasses import dataclass, replace
from typing import Literal

# How all options of a question share one pass over its prompt. In one row, separated by lorasweep's attention layout,
# by a boolean mask, or by a mask that is added to attention scores; or with copies of the prompt's cache. "none":
# every option has its own row.
OptionForm = Literal["layout", "mask", "bias", "cache", "none"]
# How answers are generated: prompts padded on the left; prompts of equal length only; the same without a cache.
Generation = Literal["padded", "one_length", "no_cache"]
GENERATIONS: tuple[Generation, ...] = ("padded", "one_length", "no_cache")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortcuts:
    """Shortcuts that give the same numbers as one row at a time."""

    own_attention: bool = False  # lorasweep's attention gives the same numbers as the base's own
    is_flat: bool = False  # rows of a training batch can be packed end to end
    option_form: OptionForm = "none"
    can_pad: bool = True  # rows of different lengths can share a batch
    generation: Generation = "no_cache"  # how answers to several prompts are generated together

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
        """Return the shortcuts that are safe if no tested row was longer than a window: no masks, which ignore it."""
        if is_tested or self.option_form not in ("mask", "bias"):
            return self
        return replace(self, option_form="none")

    @property
    def slow_ways(self) -> tuple[str, ...]:
        """Return a description of each slow pass; empty if every shortcut is allowed."""
        found = []
        if not self.can_pad:
            found.append("training and evaluation process one row at a time")
        elif not self.is_flat:
            found.append("training rows are padded")
        if self.option_form == "none":
            found.append("each option is scored in its own row")
        if self.generation != "padded":
            found.append("answers are generated only for prompts of equal length together")
        if self.generation == "no_cache":
            found.append("answers are generated without a cache")
        return tuple(found)
