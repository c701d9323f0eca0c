"""Predicted bytes grow with what costs bytes."""

from dataclasses import replace

import pytest

from lorasweep.memory import adapter_bytes, footprint, slots_that_fit, weight_bytes
from lorasweep.model import BaseInfo, describe
from lorasweep.spec import DType, ModelSpec, Precision, TrialSpec
from tests.settings import SPEC, adapted, trained


@pytest.fixture(scope="module")
def shape() -> BaseInfo:
    return describe("demo")


def total(shape: BaseInfo, *specs: TrialSpec, tokens: int = 64) -> int:
    return footprint(shape, specs, tokens_per_row=tokens, labels_per_row=4).total


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
    count = shape.num_trainable(SPEC.lora.target_modules, SPEC.lora.r)
    assert adapter_bytes(shape, SPEC) == 16 * count
    assert adapter_bytes(shape, trained(optim="paged_adamw_8bit")) == 10 * count


def test_an_adapter_costs_in_proportion_to_its_rank(shape: BaseInfo) -> None:
    assert adapter_bytes(shape, adapted(r=32)) == 4 * adapter_bytes(shape, adapted(r=8))


@pytest.mark.parametrize(
    "hungrier",
    [adapted(r=64), trained(per_device_train_batch_size=8), adapted(target_modules=("q_proj", "k_proj", "v_proj"))],
)
def test_whatever_costs_more_is_predicted_to_cost_more(shape: BaseInfo, hungrier: TrialSpec) -> None:
    assert total(shape, hungrier) > total(shape, SPEC)


def test_checkpointed_activations_cost_less(shape: BaseInfo) -> None:
    assert total(shape, trained(activation_checkpointing=True)) < total(shape, SPEC)


def test_longer_rows_cost_more(shape: BaseInfo) -> None:
    assert total(shape, SPEC, tokens=512) > total(shape, SPEC, tokens=64)


def test_the_base_is_paid_for_once(shape: BaseInfo) -> None:
    one, two = total(shape, SPEC), total(shape, SPEC, SPEC)
    assert two - one == one - weight_bytes(shape, SPEC.model)


def test_accumulation_costs_nothing(shape: BaseInfo) -> None:
    assert total(shape, trained(gradient_accumulation_steps=8)) == total(shape, SPEC)


def slots(shape: BaseInfo, budget: float, most: int = 8) -> int:
    big = replace(SPEC, lora=replace(SPEC.lora, r=64))
    return slots_that_fit(shape, [SPEC, big], budget, most, tokens_per_row=64, labels_per_row=4)


def test_as_many_slots_as_the_hungriest_allows(shape: BaseInfo) -> None:
    three = total(shape, *[adapted(r=64)] * 3)
    assert (slots(shape, three), slots(shape, three - 1)) == (3, 2)


def test_never_more_slots_than_asked_for_and_none_where_none_fits(shape: BaseInfo) -> None:
    assert (slots(shape, 1e15), slots(shape, 1)) == (8, 0)
