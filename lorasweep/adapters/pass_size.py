"""How many tokens to put through the base in one pass: measured during the first training steps.

Packing saves operations, but on a CPU a pass whose activations exceed the caches waits for memory: beyond some
hundreds of tokens several smaller passes can be faster than one. The fastest size depends on the base, the precision
and the machine, so the first steps of training try each size in turn. All sizes give the same losses.
"""

from dataclasses import dataclass, field

WHOLE = 1 << 40  # no limit
LIMITS = (WHOLE, 4096, 2048, 1024, 512, 256)  # tokens
TRIES = 2  # steps per size; the fastest counts, because a slow one may be due to other work on the machine


@dataclass(slots=True)
class PassSize:
    """The measured speed of each pass size, by size class: steps of up to twice as many tokens share a class."""

    is_learning: bool = True
    _settled: dict[int, int] = field(default_factory=dict)  # the fastest limit, by size class
    _tried: dict[int, dict[int, list[float]]] = field(default_factory=dict)  # seconds per token, by class and limit

    def is_settled(self, num_tokens: int) -> bool:
        """Return whether every pass size has been tried for steps of this many tokens."""
        return not self.is_learning or num_tokens.bit_length() in self._settled

    def limit(self, num_tokens: int) -> int:
        """Return the maximum tokens of the next pass: a size that has to be tried again, otherwise the fastest."""
        if self.is_settled(num_tokens):
            return self._settled.get(num_tokens.bit_length(), WHOLE)
        tried = self._tried.setdefault(num_tokens.bit_length(), {})
        for limit in LIMITS:
            cuts = limit < num_tokens * 0.75  # a limit that hardly cuts gains nothing
            if (cuts or limit == WHOLE) and len(tried.setdefault(limit, [])) < TRIES:
                return limit
        best = min((x for x in tried if tried[x]), key=lambda x: min(tried[x]))
        self._settled[num_tokens.bit_length()] = best
        return best

    def record(self, limit: int, num_tokens: int, seconds: float) -> None:
        """Record how long a step of this many tokens took."""
        if not self.is_settled(num_tokens):
            self._tried[num_tokens.bit_length()][limit].append(seconds / num_tokens)
