"""How many tokens to put through the base at a time: learned from the steps themselves.

Packing saves operations, but on a CPU a pass whose activations have outgrown the caches waits for memory: beyond some
hundreds of tokens several smaller passes can be faster than one. Which is best depends on the base, the precision
and the machine, so the first steps of training try each size in turn. All of them give the same losses.
"""

from dataclasses import dataclass, field

WHOLE = 1 << 40  # no limit
LIMITS = (WHOLE, 4096, 2048, 1024, 512, 256)  # tokens
TRIES = 3  # steps per size; the fastest counts, for a slow one says more about the machine's other work


@dataclass(slots=True)
class Pace:
    """The measured speed of each pass size, for about as many tokens as there are now."""

    is_learning: bool = True
    best_s: dict[int, dict[int, list[float]]] = field(default_factory=dict)  # by size class and limit: s per token

    def limit(self, num_tokens: int) -> int:
        """Return the most tokens of a pass: the size that wants another try, or else the fastest."""
        if not self.is_learning:
            return WHOLE
        tried = self.best_s.setdefault(num_tokens.bit_length(), {})
        for limit in LIMITS:
            cuts = limit < num_tokens * 0.75  # a limit that hardly cuts is none
            if (cuts or limit == WHOLE) and len(tried.setdefault(limit, [])) < TRIES:
                return limit
        return min(tried, key=lambda limit: min(tried[limit]))

    def note(self, limit: int, num_tokens: int, seconds: float) -> None:
        """Remember how long a step of so many tokens took."""
        if self.is_learning and num_tokens:
            times = self.best_s.setdefault(num_tokens.bit_length(), {}).setdefault(limit, [])
            if len(times) < TRIES:
                times.append(seconds / num_tokens)
