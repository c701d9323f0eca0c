"""The batches of a trial depend only on its seed."""

from itertools import islice

import pytest
import torch

from lorasweep.data.batches import MicroBatch, epoch_order, micro_batches, pack
from lorasweep.data.render import TokenRow
from tests.tiny import token_rows

ROWS = token_rows(10)


def take(num: int, *, batch_size: int = 2, accumulation: int = 1, seed: int = 0, skip: int = 0) -> list[MicroBatch]:
    batches = micro_batches(ROWS, batch_size=batch_size, accumulation=accumulation, seed=seed, skip_steps=skip)
    return list(islice(batches, num))


def seen(batches: list[MicroBatch]) -> list[TokenRow]:
    return [row for batch in batches for row in batch.rows]


def test_an_epoch_is_a_permutation() -> None:
    assert sorted(epoch_order(100, 0, 0)) == list(range(100))


def test_every_epoch_and_seed_has_its_own_order() -> None:
    orders = [epoch_order(100, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4


def test_an_order_is_the_same_every_time_and_leaves_torchs_own_dice_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    assert epoch_order(50, 7, 2) == epoch_order(50, 7, 2)
    assert torch.equal(torch.rand(3), expected)


def test_each_epoch_shows_every_row_once() -> None:
    batches = take(8, batch_size=3)
    assert [len(batch.rows) for batch in batches] == [3, 3, 3, 1] * 2
    assert set(seen(batches[:4])) == set(seen(batches[4:])) == set(ROWS)


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("skip", [1, 4, 7])
def test_a_resumed_trial_sees_what_it_would_have_seen(accumulation: int, skip: int) -> None:
    batches = take(60, accumulation=accumulation)
    last = [i for i, batch in enumerate(batches) if batch.is_last][skip - 1]
    resumed = take(9, accumulation=accumulation, skip=skip)
    assert resumed == batches[last + 1 : last + 10]


def test_an_accumulated_batch_holds_what_one_large_batch_holds() -> None:
    assert seen(take(3, batch_size=2, accumulation=3)) == seen(take(1, batch_size=6))


def test_parts_of_an_accumulated_batch_share_its_number_of_labels() -> None:
    parts = take(3, batch_size=2, accumulation=3)
    assert [part.is_last for part in parts] == [False, False, True]
    assert {part.num_labels for part in parts} == {sum(row.num_labels for row in seen(parts))}


def test_the_last_batch_of_an_epoch_steps_however_small_it_is() -> None:
    parts = take(5, batch_size=2, accumulation=3)
    assert [(len(part.rows), part.is_last) for part in parts[3:]] == [(2, False), (2, True)]


@pytest.mark.parametrize("flat", [False, True])
def test_packed_positions_predict_the_label_from_the_token_before(flat: bool) -> None:
    packed = pack(take(2), pad_id=0, flat=flat)
    predicted = packed.ids_BS[packed.row_T, packed.column_T + 1]
    assert torch.equal(predicted, packed.target_T)


@pytest.mark.parametrize("flat", [False, True])
def test_packed_positions_are_all_labels_and_no_others(flat: bool) -> None:
    batches = take(2)
    packed = pack(batches, pad_id=0, flat=flat)
    rows = seen(batches)
    starts = [sum(len(row.ids) for row in rows[:b]) if flat else 0 for b in range(len(rows))]
    expected = {
        (0 if flat else b, start + s - 1)
        for b, (row, start) in enumerate(zip(rows, starts, strict=True))
        for s in range(1, len(row.ids))
        if row.is_label[s]
    }
    assert set(zip(packed.row_T.tolist(), packed.column_T.tolist(), strict=True)) == expected


@pytest.mark.parametrize("flat", [False, True])
def test_weights_turn_sums_into_each_slots_mean(flat: bool) -> None:
    packed = pack([take(1)[0], take(1, batch_size=5, seed=1)[0]], pad_id=0, flat=flat)
    sums = torch.zeros(2).index_add(0, packed.slot_T, packed.weight_T)
    assert torch.allclose(sums, torch.ones(2))


def test_weights_of_an_accumulated_batch_sum_to_one_over_its_parts() -> None:
    total = sum(
        float(pack([part], pad_id=0, flat=False).weight_T.sum()) for part in take(3, batch_size=2, accumulation=3)
    )
    assert total == pytest.approx(1)


def test_rows_are_padded_on_the_right_and_padding_is_no_token() -> None:
    batches = take(2)
    packed = pack(batches, pad_id=9, flat=False)
    for ids, row in zip(packed.ids_BS.tolist(), seen(batches), strict=True):
        assert ids == [*row.ids, *[9] * (packed.ids_BS.shape[1] - len(row.ids))]
    assert sum(batch.num_tokens for batch in batches) == sum(packed.lengths) < packed.ids_BS.numel()


def test_flat_rows_lie_end_to_end_and_count_their_places_anew() -> None:
    batches = take(2)
    packed = pack(batches, pad_id=9, flat=True)
    assert packed.ids_BS.tolist() == [[i for row in seen(batches) for i in row.ids]]
    assert packed.position_BS.tolist() == [[s for row in seen(batches) for s in range(len(row.ids))]]
