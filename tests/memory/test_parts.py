"""Each part of a prediction equals its formula, written out for the demo base."""

from dataclasses import replace
from typing import Any

import pytest

from lorasweep.adapters import stack_plan
from lorasweep.adapters.stack_plan import padded_sizes
from lorasweep.core.spec import ModelSpec, Precision, TrialSpec
from lorasweep.data.render import TokenRow
from lorasweep.memory import Lengths, footprint, lengths_of, slots_that_fit
from lorasweep.memory.activations import kept_bytes, load_of, logits_bytes, members_of, stacks_of, workspace_bytes
from lorasweep.memory.evaluation import evaluation_bytes
from lorasweep.memory.footprint import CUDA_SLACK, HEAP_SLACK
from lorasweep.models.info import describe
from lorasweep.models.shape import BaseInfo
from tests.settings import SPEC, adapted, num_parameters, trained

LENGTHS = Lengths(longest=100, mean=50, deviation=5, labels=4, scored=40, scored_labels=10, has_options=True, prompt=30)
TEXTS = replace(LENGTHS, scored_labels=1, has_options=False)


@pytest.fixture(scope="module")
def shape() -> BaseInfo:
    return describe("demo")


def at(precision: Precision) -> TrialSpec:
    return replace(SPEC, model=replace(SPEC.model, dtype="bf16", precision=precision))


def evaluated(**changes: Any) -> TrialSpec:
    return replace(SPEC, eval=replace(SPEC.eval, **changes))


def kept(shape: BaseInfo, spec: TrialSpec) -> int:
    load = load_of(spec, LENGTHS)
    (stack,) = stacks_of(shape, [spec], [load], "cpu")
    return kept_bytes(shape, spec, load, kind="cpu", stack=stack, dropout=False)


def sizes_in_bank(shape: BaseInfo, *ranks: int) -> list[int]:
    """Return the numbers that adapters of these ranks may be padded to in one bank."""
    specs = [adapted(r=rank) for rank in ranks]
    return padded_sizes(members_of(shape, specs, [load_of(spec, LENGTHS) for spec in specs]))


def row(prompt: int, *options: int, size: int = 0) -> TokenRow:
    """Return a row with options of these lengths."""
    length = size or prompt + 1
    tokens = tuple((0,) * option for option in options)
    return TokenRow(
        ids=(0,) * length,
        is_label=(False,) * prompt + (True,) * (length - prompt),
        prompt_length=prompt,
        options=tokens,
    )


def test_a_question_is_read_once_and_each_option_but_its_last_token() -> None:
    found = lengths_of([row(4)], [row(4, 2, 3), row(6, 1, 1)])
    assert (found.scored, found.has_options, found.prompt) == (4 + 1 + 2, True, 6)


def test_labels_are_counted_in_the_longest_quarter_which_is_scored_together() -> None:
    evaluated = [row(20, 5, 5), row(19, 1, 1), *[row(2, 1, 1)] * 3]
    assert lengths_of([row(4)], evaluated).scored_labels == (10 + 2) / 2


def test_rows_that_are_also_evaluated_count_where_they_need_more() -> None:
    first = lengths_of([row(4)], [row(4, 3, 3)])
    assert first.with_scored([row(9, size=10)]) == replace(first, prompt=9)
    assert first.with_scored([row(4, 9, 9)]) == replace(first, scored=20, scored_labels=18)


def test_attention_is_padded_to_the_longest_row() -> None:
    assert (load_of(SPEC, LENGTHS).tokens, load_of(SPEC, LENGTHS).padded) == (231, 400)


def test_checkpointing_keeps_one_layer_and_the_inputs_of_all(shape: BaseInfo) -> None:
    tokens, spared = load_of(SPEC, LENGTHS).tokens, trained(activation_checkpointing=True)
    ends = 4 * tokens * shape.hidden_size + 2 * 4 * load_of(SPEC, LENGTHS).labels * shape.hidden_size
    layer = (kept(shape, SPEC) - ends) / shape.num_layers
    inputs = shape.num_layers * 4 * tokens * shape.hidden_size
    assert kept(shape, spared) == pytest.approx(layer + inputs + ends, abs=1)


def test_an_int8_layer_saves_its_input_even_without_an_adapter(shape: BaseInfo) -> None:
    """In addition to the shared input of q and v: the inputs of o, of gate and up, and of down."""
    others = shape.num_heads * shape.head_size + shape.hidden_size + shape.intermediate_size
    more = kept(shape, at("int8")) - kept(shape, at("none"))
    assert more == 2 * load_of(SPEC, LENGTHS).tokens * shape.num_layers * others


@pytest.mark.parametrize(("dtype", "each"), [("fp32", 8), ("bf16", 10)])
def test_logits_take_a_chunk_at_most(shape: BaseInfo, dtype: Any, each: int) -> None:
    model = ModelSpec(id="demo", dtype=dtype)
    assert logits_bytes(shape, model, 10, "cpu") == each * 10 * shape.vocab_size
    assert logits_bytes(shape, model, 10**9, "cpu") == each * ((1 << 21) // shape.vocab_size) * shape.vocab_size


def test_a_quantised_matrix_is_restored_to_be_multiplied_with(shape: BaseInfo) -> None:
    plain, packed = (workspace_bytes(shape, at(p).model, [load_of(SPEC, LENGTHS)], "cpu") for p in ("none", "nf4"))
    assert packed - plain == 2 * max(inputs * outputs for inputs, outputs in shape.linears.values())


def test_slots_share_the_rows_of_an_evaluation_batch(shape: BaseInfo) -> None:
    one, four = (evaluation_bytes(shape, [evaluated(batch_rows=32, num_samples=0)] * n, TEXTS) for n in (1, 4))
    assert one == four


def test_questions_need_a_layer_or_their_logits_and_a_mask(shape: BaseInfo) -> None:
    rows = 32 * 16 // LENGTHS.scored
    layer = rows * LENGTHS.scored * 4 * (3 * shape.intermediate_size + shape.hidden_size)
    logits = rows * LENGTHS.scored_labels * (4 + 4) * shape.vocab_size
    mask = 4 * rows * LENGTHS.scored**2
    found = evaluation_bytes(shape, [evaluated(batch_rows=32, num_samples=0)], LENGTHS)
    assert found == int(max(layer, logits) + mask)


def test_answers_need_the_cache_of_all_layers(shape: BaseInfo) -> None:
    spec = evaluated(batch_rows=32, num_samples=1, max_new_tokens=5000)
    token = 2 * 4 * shape.num_kv_heads * shape.head_size
    cache = (TEXTS.prompt + 5000) * (shape.num_layers + 1) * token
    assert evaluation_bytes(shape, [spec], TEXTS) == 32 * (cache + 8 * shape.vocab_size)


def test_where_nothing_is_written_no_cache_is_needed(shape: BaseInfo) -> None:
    spec = evaluated(batch_rows=32, num_samples=0, max_new_tokens=5000)
    assert evaluation_bytes(shape, [spec], TEXTS) == evaluation_bytes(shape, [replace(spec, eval=replace(
        spec.eval, max_new_tokens=1))], TEXTS)  # fmt: skip


def test_a_gpu_loses_a_share_of_the_larger_peak_to_gaps_and_its_meter_sees_tensors(shape: BaseInfo) -> None:
    found = footprint(shape, [(SPEC, LENGTHS)], kind="cuda")
    assert found.slack == round(CUDA_SLACK * max(found.activations, found.evaluation))
    assert (found.measurable("cuda"), found.measurable("cpu")) == (found.tensors, found.total)


@pytest.mark.parametrize(("precision", "share"), [("none", "training"), ("int8", "int8")])
def test_gaps_of_a_heap_depend_on_the_precision(shape: BaseInfo, precision: Precision, share: str) -> None:
    found = footprint(shape, [(at(precision), LENGTHS)], is_evaluated=False)
    assert found.evaluation == 0
    assert found.slack == pytest.approx(HEAP_SLACK[share] * found.activations, abs=1)


def test_what_was_measured_decides_how_many_slots_fit(shape: BaseInfo) -> None:
    loads = [(SPEC, LENGTHS)]
    budget = footprint(shape, loads * 4).total
    counts = [slots_that_fit(shape, loads, budget, 8, kind="cpu", factor=factor) for factor in (1.0, 2.0)]
    assert counts[0] == 4 > counts[1]


def test_a_small_adapter_has_a_stack_of_its_own_beside_one_that_is_too_large(
    shape: BaseInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack_plan, "SMALL", 0)
    sizes = {r: num_parameters(shape, SPEC.lora.target_modules, r) for r in (2, 16, 64)}
    assert sizes_in_bank(shape, 2, 16, 64) == [sizes[2], sizes[64], sizes[64]]
