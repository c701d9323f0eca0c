from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pytest
import torch
from transformers import LlamaForCausalLM

from evaluation.generate import greedy, pad_left, until_any

PROMPTS = [[1, 5], [1, 7, 3, 8, 2, 11, 4], [9], [1, 40, 41, 0, 0], [1, 5]]
NO_STOP: tuple[int, ...] = ()


def alone(model: LlamaForCausalLM, prompt: list[int], num_tokens: int) -> list[int]:
    """Decode greedily in the simplest way: no batch, no padding, no cache."""
    ids = list(prompt)
    for _ in range(num_tokens):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("batch_rows", [1, 2, 100])
def test_prompts_answered_together_equal_prompts_answered_alone(llama: LlamaForCausalLM, batch_rows: int) -> None:
    expected = [alone(llama, prompt, 6) for prompt in PROMPTS]
    answers = greedy(llama, PROMPTS, pad_id=0, eos_ids=NO_STOP, max_new_tokens=6, batch_rows=batch_rows)
    assert answers == [expected]
    assert len({tuple(answer) for answer in expected}) == 4  # otherwise the order of answers would not be tested


def test_three_copies_give_three_equal_answers(llama: LlamaForCausalLM) -> None:
    arguments = {"pad_id": 0, "eos_ids": NO_STOP, "max_new_tokens": 5}
    one = greedy(llama, PROMPTS, batch_rows=100, **arguments)  # type: ignore[arg-type]
    assert greedy(llama, PROMPTS, batch_rows=7, copies=3, **arguments) == one * 3  # type: ignore[arg-type]


def test_an_answer_stops_before_any_of_the_end_tokens(llama: LlamaForCausalLM) -> None:
    full = [alone(llama, prompt, 6) for prompt in PROMPTS]
    stops = [full[0][3], full[1][2]]
    answers = greedy(llama, PROMPTS, pad_id=0, eos_ids=stops, max_new_tokens=6, batch_rows=8)
    assert answers == [[until_any(answer, stops) for answer in full]]
    assert len(answers[0][0]) < 6


def test_an_answer_ends_before_its_first_stop() -> None:
    assert until_any([5, 6, 2, 7, 3], [3, 2]) == [5, 6]
    assert until_any([5, 6], [3, 2]) == [5, 6]


def test_prompts_of_unequal_length_share_no_batch_where_none_may_be_padded(llama: LlamaForCausalLM) -> None:
    counts: list[int] = []

    def rows(num: int) -> nullcontext[None]:
        counts.append(num)
        return nullcontext()

    settings = {"pad_id": 0, "eos_ids": NO_STOP, "max_new_tokens": 3, "batch_rows": 100}
    together = greedy(llama, PROMPTS, **settings)  # type: ignore[arg-type]
    assert greedy(llama, PROMPTS, rows=rows, one_length=True, **settings) == together  # type: ignore[arg-type]
    assert counts == [1, 1, 2, 1]  # of 7, 5, 2 and 1 tokens


@pytest.mark.parametrize(("use_cache", "widths"), [(True, [5, 1, 1]), (False, [5, 6, 7])])
def test_without_a_cache_each_token_reads_the_whole_row(
    llama: LlamaForCausalLM, use_cache: bool, widths: list[int]
) -> None:
    seen: list[int] = []
    handle = llama.model.embed_tokens.register_forward_pre_hook(lambda _, ids: seen.append(ids[0].shape[1]))
    try:
        greedy(llama, PROMPTS[3:4], pad_id=0, eos_ids=NO_STOP, max_new_tokens=3, batch_rows=1, use_cache=use_cache)
    finally:
        handle.remove()
    assert seen == widths


def test_sampling_flags_left_in_the_model_change_nothing_and_warn_of_nothing(llama: LlamaForCausalLM) -> None:
    expected = greedy(llama, PROMPTS, pad_id=0, eos_ids=[2], max_new_tokens=12, batch_rows=8)
    chatty = copy.deepcopy(llama)
    chatty.generation_config.do_sample, chatty.generation_config.temperature = True, 0.3
    chatty.generation_config.top_p, chatty.generation_config.min_p = 0.8, 0.1
    chatty.generation_config.repetition_penalty, chatty.generation_config.num_beams = 1.9, 3
    chatty.generation_config.max_length, chatty.generation_config.min_length = 9, 9
    chatty.generation_config.suppress_tokens = [expected[0][0][1]]
    left_behind = chatty.generation_config.to_dict()
    with transformers_warnings() as warned:
        answers = greedy(chatty, PROMPTS, pad_id=0, eos_ids=[2], max_new_tokens=12, batch_rows=8)
    assert (answers, warned) == (expected, [])
    assert chatty.generation_config.to_dict() == left_behind


def test_padding_that_is_also_the_end_token_warns_of_nothing(llama: LlamaForCausalLM) -> None:
    with transformers_warnings() as warned:
        greedy(llama, [[1, 2], [2], [5, 6, 7]], pad_id=2, eos_ids=[2], max_new_tokens=3, batch_rows=8)
    assert warned == []


def test_the_bank_hears_how_many_rows_each_slot_gets(llama: LlamaForCausalLM) -> None:
    counts: list[int] = []

    @contextmanager
    def rows(num: int) -> Iterator[None]:
        counts.append(num)
        yield

    greedy(llama, PROMPTS, pad_id=0, eos_ids=NO_STOP, max_new_tokens=1, batch_rows=7, copies=2, rows=rows)
    assert counts == [3, 2]


def test_each_slot_answers_its_own_block_of_rows(llama: LlamaForCausalLM) -> None:
    def second_block_predicts_seven(_: torch.nn.Module, __: object, logits: torch.Tensor) -> torch.Tensor:
        logits[len(logits) // 2 :, :, 7] = 1e4
        return logits

    handle = llama.lm_head.register_forward_hook(second_block_predicts_seven)
    try:
        first, second = greedy(llama, PROMPTS, pad_id=0, eos_ids=[], max_new_tokens=4, batch_rows=6, copies=2)
    finally:
        handle.remove()
    assert first == [alone(llama, prompt, 4) for prompt in PROMPTS]
    assert second == [[7] * 4] * len(PROMPTS)


@pytest.mark.filterwarnings("ignore::FutureWarning:transformers")  # PEFT 0.21 uses an old name
def test_a_peft_model_answers_without_its_base_models_defaults(llama: LlamaForCausalLM) -> None:
    peft = pytest.importorskip("peft")
    expected = greedy(llama, PROMPTS, pad_id=0, eos_ids=[2], max_new_tokens=8, batch_rows=8)
    base = copy.deepcopy(llama)
    base.generation_config.repetition_penalty = 1.9
    adapted = peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"])).eval()
    for _ in range(2):
        assert greedy(adapted, PROMPTS, pad_id=0, eos_ids=[2], max_new_tokens=8, batch_rows=8) == expected
    assert base.generation_config.repetition_penalty == adapted.generation_config.repetition_penalty == 1.9


def test_an_empty_prompt_is_refused_by_its_number(llama: LlamaForCausalLM) -> None:
    with pytest.raises(ValueError, match=r"prompts \[1\]"):
        greedy(llama, [[1], []], pad_id=0, eos_ids=[2], max_new_tokens=1, batch_rows=8)


def test_padding_stands_on_the_left_and_is_masked() -> None:
    ids, mask = pad_left([[5, 0], [6, 7, 8]], pad_id=0)
    assert ids.tolist() == [[0, 5, 0], [6, 7, 8]]
    assert mask.tolist() == [[0, 1, 1], [1, 1, 1]]


@contextmanager
def transformers_warnings() -> Iterator[list[str]]:
    """Record the warnings of transformers: its logger may not propagate, so pytest's caplog may miss them."""
    warned: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: warned.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("transformers").addHandler(handler)
    try:
        yield warned
    finally:
        logging.getLogger("transformers").removeHandler(handler)
