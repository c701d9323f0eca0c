"""What a slot trains on next: its micro-batches in order, from any step on, in parts where the device is small."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from lorasweep.core.spec import TrainSpec
from lorasweep.data.batches import MicroBatch, micro_batches
from lorasweep.data.render import TokenRow


class Feed:
    """A micro-batch stays until it is taken, so that a pass that failed can be tried again with less."""

    def __init__(self, rows: Sequence[TokenRow], spec: TrainSpec) -> None:
        self.rows, self.spec = rows, spec
        self.rewind(0)

    @property
    def is_inside(self) -> bool:
        """Tell whether a part of a micro-batch was taken, and not yet its end."""
        return self._num_taken > 0

    def rewind(self, step: int) -> None:
        """Go on behind the first `step` effective batches."""
        self._source: Iterator[MicroBatch] = micro_batches(
            self.rows,
            batch_size=self.spec.per_device_train_batch_size,
            accumulation=self.spec.gradient_accumulation_steps,
            seed=self.spec.seed,
            skip_steps=step,
        )
        self._whole: MicroBatch | None = None
        self._num_taken = 0

    def part(self, most_tokens: int) -> MicroBatch:
        """Return the rows that come next, one at least, and no more than so many tokens besides."""
        if self._whole is None:
            self._whole = next(self._source)
        whole, first = self._whole, self._num_taken
        if first == 0 and whole.num_tokens <= most_tokens:
            return whole
        last, tokens = first + 1, len(whole.rows[first].ids)
        while last < len(whole.rows) and tokens + len(whole.rows[last].ids) <= most_tokens:
            tokens += len(whole.rows[last].ids)
            last += 1
        is_last = whole.is_last and last == len(whole.rows)
        return replace(whole, rows=whole.rows[first:last], is_last=is_last, whole=whole.rows, first=first)

    def take(self, part: MicroBatch) -> None:
        """Go on behind a part."""
        assert self._whole is not None
        self._num_taken += len(part.rows)
        if self._num_taken == len(self._whole.rows):
            self._whole, self._num_taken = None, 0
