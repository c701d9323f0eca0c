"""A micro-batch that is too large is split into parts; the optimizer steps after the last part."""

from lorasweep.core.spec import TrainSpec
from lorasweep.data.batches import MicroBatch
from lorasweep.data.loader import BatchLoader
from tests.tiny import token_rows


def parts_of(loader: BatchLoader, max_tokens: int, num: int) -> list[MicroBatch]:
    """Return the next parts."""
    found = []
    for _ in range(num):
        found.append(loader.part(max_tokens))
        loader.take(found[-1])
    return found


def test_parts_hold_the_rows_of_their_micro_batch_and_only_the_last_ends_the_step() -> None:
    spec = TrainSpec(learning_rate=1e-3, per_device_train_batch_size=4, gradient_accumulation_steps=2)
    whole = parts_of(BatchLoader(token_rows(), spec), 10**6, 2)
    parts = parts_of(BatchLoader(token_rows(), spec), 1, 8)
    assert [part.is_last for part in whole] == [False, True]
    assert [part.is_last for part in parts] == [False] * 7 + [True]
    assert [part.first for part in parts] == [0, 1, 2, 3] * 2
    assert [part.rows[0] for part in parts] == [row for batch in whole for row in batch.rows]


def test_a_part_has_no_more_tokens_than_allowed_unless_one_row_has() -> None:
    spec = TrainSpec(learning_rate=1e-3, per_device_train_batch_size=8)
    parts = parts_of(BatchLoader(token_rows(), spec), 40, 20)
    assert all(part.num_tokens <= 40 for part in parts) and any(len(part.rows) > 1 for part in parts)
