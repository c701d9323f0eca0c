"""The shipped demo is the output of its script, and its configurations differ."""

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from lorasweep.demo import DEMO_DIR, answers, intents
from lorasweep.demo.base import Recipe, train_base, training_pools
from lorasweep.demo.files import write_data
from lorasweep.demo.rows import Choice
from lorasweep.demo.skills import SKILLS, split

MEGABYTE = 1_000_000
NUM_ASKED = 40  # rows per probe: enough to distinguish a skill from chance, scored within a second


@cache
def shipped() -> tuple[PreTrainedTokenizerFast, LlamaForCausalLM]:
    tokenizer = AutoTokenizer.from_pretrained(DEMO_DIR / "base")
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    return tokenizer, LlamaForCausalLM.from_pretrained(DEMO_DIR / "base", dtype=torch.float32)


def test_data_files_are_what_the_generators_write_now(tmp_path: Path) -> None:
    write_data(tmp_path)
    made = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*.*")}
    kept = {path.relative_to(DEMO_DIR / "data"): path.read_bytes() for path in (DEMO_DIR / "data").rglob("*.*")}
    assert made == kept


def test_no_text_is_in_two_splits() -> None:
    texts = [row.text for rows in intents.splits().values() for row in rows]
    questions = [(row.instruction, row.input) for rows in answers.splits().values() for row in rows]
    assert len(set(texts)) == len(texts)
    assert len(set(questions)) == len(questions)


@pytest.mark.parametrize("skill", SKILLS)
def test_no_probe_is_among_the_rows_the_base_learns_from(skill: str) -> None:
    learnt, held_out = split(skill)
    assert not {row.prompt for row in learnt} & {row.prompt for row in held_out}


def test_the_base_never_meets_the_support_desk() -> None:
    seen = " ".join("".join(row.pair) for pool in training_pools().values() for row in pool)
    assert "Mossling" not in seen
    assert not any(f"Label: {label}" in seen for label in intents.COMPLAINTS)


@pytest.mark.parametrize("skill", SKILLS)
def test_shipped_base_beats_chance_on_each_probe(skill: str) -> None:
    rows = split(skill)[1][:NUM_ASKED]
    chance = 1 / len(rows[0].options)
    assert sum(is_right(row) for row in rows) / len(rows) > chance + 0.2


def test_shipped_base_is_small() -> None:
    assert sum(path.stat().st_size for path in (DEMO_DIR / "base").iterdir()) < 4 * MEGABYTE


def test_tokenizer_adds_bos_and_gives_every_text_back() -> None:
    tokenizer, _ = shipped()
    text = "Text: die Gießkanne 12 + 7\nLabel:"
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert len({tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}) == 3


@pytest.mark.slow
def test_miniature_build_learns_and_loads(tmp_path: Path) -> None:
    losses: list[float] = []
    recipe = Recipe(num_steps=40, batch_size=8, lr=1e-2, hidden_size=32, num_layers=1)
    train_base(tmp_path, recipe, lambda step, loss: losses.append(loss))
    assert sum(losses[-4:]) < 0.8 * sum(losses[:4])
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config.hidden_size == 32


def is_right(row: Choice) -> bool:
    return max(row.options, key=lambda option: logprob(row.prompt, option)) == row.completion


@torch.no_grad()
def logprob(prompt: str, option: str) -> float:
    tokenizer, model = shipped()
    prompt_ids = tokenizer(prompt)["input_ids"]
    option_ids = [*tokenizer(option, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    logits_TV = model(input_ids=torch.tensor([prompt_ids + option_ids])).logits[0, len(prompt_ids) - 1 : -1]
    return float(logits_TV.log_softmax(-1)[range(len(option_ids)), option_ids].sum())
