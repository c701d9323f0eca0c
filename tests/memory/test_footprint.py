"""Predicted bytes grow with every setting that needs memory."""

from dataclasses import replace

import pytest

from lorasweep.core.spec import DType, ModelSpec, Precision, TrialSpec
from lorasweep.memory import Footprint, Lengths, adapter_bytes, footprint, own_bytes, slots_that_fit, weight_bytes
from lorasweep.models.info import describe
from lorasweep.models.shape import BaseInfo
from tests.memory.test_parts import sizes_in_bank
from tests.settings import SPEC, adapted, lora_of, num_parameters, trained


@pytest.fixture(scope="module")
def shape() -> BaseInfo:
    return describe("demo")


def lengths(tokens: int = 64) -> Lengths:
    return Lengths(longest=tokens, mean=tokens, deviation=0, labels=4, scored=8, scored_labels=4)


def need(shape: BaseInfo, *specs: TrialSpec, tokens: int = 64) -> Footprint:
    return footprint(shape, [(spec, lengths(tokens)) for spec in specs])


def total(shape: BaseInfo, *specs: TrialSpec, tokens: int = 64) -> int:
    return need(shape, *specs, tokens=tokens).total


@pytest.mark.parametrize(("dtype", "size"), [("fp32", 4), ("bf16", 2), ("fp16", 2)])
def test_weights_take_their_types_bytes(shape: BaseInfo, dtype: DType, size: int) -> None:
    assert weight_bytes(shape, ModelSpec(id="demo", dtype=dtype)) == size * shape.num_parameters


def test_each_precision_takes_less_than_the_one_before(shape: BaseInfo) -> None:
    order: tuple[Precision, ...] = ("none", "int8", "nf4", "nf4_double")
    sizes = [weight_bytes(shape, ModelSpec(id="demo", dtype="bf16", precision=p)) for p in order]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 4


def test_four_bits_are_half_a_byte_and_their_constants(shape: BaseInfo) -> None:
    plain = weight_bytes(shape, ModelSpec(id="demo", dtype="bf16"))
    packed = weight_bytes(shape, ModelSpec(id="demo", dtype="bf16", precision="nf4"))
    assert plain - packed == shape.num_linear_parameters * (2 - 0.5625)


def test_an_adapter_costs_its_weights_gradient_and_two_moments(shape: BaseInfo) -> None:
    count = num_parameters(shape, SPEC.lora.target_modules, lora_of(SPEC).r)
    assert adapter_bytes(shape, SPEC) == 16 * count


def test_in_16_bits_an_adapter_has_a_copy_to_multiply_with(shape: BaseInfo) -> None:
    count = num_parameters(shape, SPEC.lora.target_modules, lora_of(SPEC).r)
    low = replace(SPEC, model=replace(SPEC.model, dtype="bf16"))
    assert adapter_bytes(shape, low) == 18 * count


def test_8_bit_states_save_only_where_tensors_are_large(shape: BaseInfo) -> None:
    """A rank of 8 on a width of 128 is 1,024 numbers, whose states bitsandbytes keeps in fp32; 64 are 8,192."""
    small, large = (replace(trained(optim="paged_adamw_8bit"), lora=adapted(r=r).lora) for r in (8, 64))
    counts = [num_parameters(shape, s.lora.target_modules, lora_of(s).r) for s in (small, large)]
    assert adapter_bytes(shape, small) == 16 * counts[0]
    assert adapter_bytes(shape, large) == int(counts[1] * (10 + 8 / 256))


def test_a_small_adapter_is_padded_beside_a_large_one(shape: BaseInfo) -> None:
    assert sizes_in_bank(shape, 2, 64) == [num_parameters(shape, SPEC.lora.target_modules, 64)] * 2


@pytest.mark.parametrize(
    "hungrier",
    [
        adapted(r=64),
        adapted(lora_dropout=0.1),
        trained(per_device_train_batch_size=8),
        adapted(target_modules=("q_proj", "o_proj", "v_proj")),
    ],
)
def test_whatever_costs_more_is_predicted_to_cost_more(shape: BaseInfo, hungrier: TrialSpec) -> None:
    assert total(shape, hungrier, tokens=512) > total(shape, SPEC, tokens=512)


def test_keys_share_the_input_that_queries_keep(shape: BaseInfo) -> None:
    three = adapted(target_modules=("q_proj", "k_proj", "v_proj"))
    more = need(shape, three, tokens=512).activations - need(shape, SPEC, tokens=512).activations
    assert more == 4 * 4 * 512 * shape.num_layers * 8  # four rows, fp32: only k's product of rank 8


def test_checkpointed_activations_cost_less(shape: BaseInfo) -> None:
    assert total(shape, trained(activation_checkpointing=True), tokens=512) < total(shape, SPEC, tokens=512)


def test_the_base_and_what_the_process_takes_are_paid_for_once(shape: BaseInfo) -> None:
    one, two = need(shape, SPEC), need(shape, SPEC, SPEC)
    assert (two.weights, two.overhead) == (one.weights, one.overhead)
    assert two.adapters == 2 * one.adapters


def test_accumulation_costs_nothing(shape: BaseInfo) -> None:
    assert total(shape, trained(gradient_accumulation_steps=8)) == total(shape, SPEC)


def test_evaluation_peaks_at_another_time_than_training(shape: BaseInfo) -> None:
    many = Lengths(longest=8, mean=8, deviation=0, labels=1, scored=400, scored_labels=300, has_options=True)
    found = footprint(shape, [(SPEC, many)])
    assert found.evaluation > found.activations
    assert found.tensors == found.weights + found.adapters + found.evaluation


def test_a_correction_leaves_the_weights_alone(shape: BaseInfo) -> None:
    found = need(shape, SPEC)
    assert found.corrected(2.0).total == 2 * found.total - found.weights


def test_what_trials_add_is_in_proportion_to_their_rows(shape: BaseInfo) -> None:
    small, large = own_bytes(shape, [(trained(per_device_train_batch_size=b), lengths()) for b in (2, 8)])
    adapter = adapter_bytes(shape, SPEC)
    assert large - adapter == pytest.approx(4 * (small - adapter))


def test_a_likely_batch_is_longer_than_the_mean_and_never_longer_than_the_longest() -> None:
    found = Lengths(longest=100, mean=50, deviation=10, labels=1)
    assert (found.batch(1), found.batch(16)) == (81, 921)
    assert Lengths(longest=60, mean=50, deviation=10, labels=1).batch(1) == 60


def slots(shape: BaseInfo, budget: float, most: int = 8) -> int:
    big = adapted(r=64)
    return slots_that_fit(shape, [(SPEC, lengths()), (big, lengths())], budget, most, kind="cpu")


def test_the_largest_trial_decides_the_number_of_slots(shape: BaseInfo) -> None:
    three = total(shape, *[adapted(r=64)] * 3)
    assert (slots(shape, three), slots(shape, three - 1)) == (3, 2)


def test_never_more_slots_than_asked_for_and_none_where_none_fits(shape: BaseInfo) -> None:
    assert (slots(shape, 1e15), slots(shape, 1)) == (8, 0)
