"""The micro-batches of one trial in order, from any step on, split into parts where the device is small."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from lorasweep.core.spec import TrainSpec
from lorasweep.data.batches import MicroBatch, micro_batches
from lorasweep.data.render import TokenRow


class BatchLoader:
    """Returns the same rows until they are taken, so that a pass that failed can be repeated with fewer rows."""

    def __init__(self, rows: Sequence[TokenRow], spec: TrainSpec) -> None:
        self.rows, self.spec = rows, spec
        self.rewind(0)

    @property
    def is_inside(self) -> bool:
        """Tell whether some rows of the current micro-batch were taken, but not all."""
        return self._num_taken > 0

    def rewind(self, step: int) -> None:
        """Continue after the first `step` effective batches."""
        self._source: Iterator[MicroBatch] = micro_batches(
            self.rows,
            batch_size=self.spec.per_device_train_batch_size,
            accumulation=self.spec.gradient_accumulation_steps,
            seed=self.spec.seed,
            skip_steps=step,
        )
        self._whole: MicroBatch | None = None
        self._num_taken = 0

    def part(self, max_tokens: int) -> MicroBatch:
        """Return the next rows of at most `max_tokens` tokens together; at least one row."""
        if self._whole is None:
            self._whole = next(self._source)
        whole, first = self._whole, self._num_taken
        if first == 0 and whole.num_tokens <= max_tokens:
            return whole
        last, tokens = first + 1, len(whole.rows[first].ids)
        while last < len(whole.rows) and tokens + len(whole.rows[last].ids) <= max_tokens:
            tokens += len(whole.rows[last].ids)
            last += 1
        is_last = whole.is_last and last == len(whole.rows)
        return replace(whole, rows=whole.rows[first:last], is_last=is_last, whole=whole.rows, first=first)

    def take(self, part: MicroBatch) -> None:
        """Continue after this part."""
        assert self._whole is not None
        self._num_taken += len(part.rows)
        if self._num_taken == len(self._whole.rows):
            self._whole, self._num_taken = None, 0
