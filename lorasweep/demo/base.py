"""Train the demo's base from scratch: a Llama small enough to ship, with skills that it can forget.

A base of random weights would not do: LoRA on frozen noise learns next to nothing (its loss stops at about 4.5), and
there would be no skill to lose.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, get_cosine_schedule_with_warmup

from lorasweep.demo import prose, skills, topics
from lorasweep.demo.rows import Row
from lorasweep.demo.tokenizer import train_tokenizer

# B rows, T tokens, V vocabulary
PROMPT_WEIGHT = 0.15  # prompts teach the everyday words; completions teach the skill

# How often each kind of row is drawn. Sums and facts need many repetitions; labels are learned quickly.
MIXTURE = {
    "arithmetic": 5,
    "facts": 3,
    "relations": 4,
    "sequences": 3,
    "sentiment": 1,
    "topics": 5,
    "instructions": 4,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Sizes of a build; the defaults give the shipped base, tests use a smaller one."""

    num_steps: int = 3000
    batch_size: int = 64
    lr: float = 3e-3
    hidden_size: int = 128
    num_layers: int = 4
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Encoded:
    ids: list[int]
    num_prompt: int


def train_base(folder: Path, recipe: Recipe, on_step: Callable[[int, float], None]) -> None:
    """Write tokenizer and weights into the folder; call `on_step` with each step's number and loss."""
    pools = training_pools()
    tokenizer = train_tokenizer("".join(row.pair) for pool in pools.values() for row in pool)
    torch.manual_seed(recipe.seed)
    model = LlamaForCausalLM(_config(recipe, tokenizer))
    encoded = {name: [_encode(tokenizer, row) for row in pool] for name, pool in pools.items()}
    _fit(model, _batches(encoded, recipe), recipe, on_step)
    _save(model, tokenizer, folder)


def training_pools() -> dict[str, list[Row]]:
    """Return training rows by kind: the skills without their probes, and everyday prose, without the support desk."""
    pools: dict[str, list[Row]] = {skill: list(skills.split(skill)[0]) for skill in skills.SKILLS}
    pools["topics"] = list(topics.topics(random.Random("topics")))
    pools["instructions"] = list(prose.instructions(random.Random("instructions")))
    return pools


def _config(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden_size,
        intermediate_size=2 * recipe.hidden_size,
        num_hidden_layers=recipe.num_layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _encode(tokenizer: PreTrainedTokenizerFast, row: Row) -> Encoded:
    prompt, completion = row.pair
    prompt_ids: list[int] = tokenizer(prompt)["input_ids"]
    completion_ids: list[int] = tokenizer(completion, add_special_tokens=False)["input_ids"]
    return Encoded([*prompt_ids, *completion_ids, tokenizer.eos_token_id], len(prompt_ids))


def _batches(pools: dict[str, list[Encoded]], recipe: Recipe) -> Iterator[list[Encoded]]:
    """Yield batches of rows of similar length: eight batches are drawn together, sorted, split and shuffled."""
    rng = random.Random(recipe.seed)
    names, size = list(MIXTURE), recipe.batch_size
    while True:
        kinds = rng.choices(names, weights=list(MIXTURE.values()), k=8 * size)
        rows = sorted((rng.choice(pools[kind]) for kind in kinds), key=lambda row: len(row.ids))
        for start in rng.sample(range(0, len(rows), size), 8):
            yield rows[start : start + size]


def _fit(
    model: LlamaForCausalLM,
    batches: Iterator[list[Encoded]],
    recipe: Recipe,
    on_step: Callable[[int, float], None],
) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, betas=(0.9, 0.98), weight_decay=0.1, fused=True)
    schedule = get_cosine_schedule_with_warmup(optimizer, recipe.num_steps // 20, recipe.num_steps)
    for step in range(recipe.num_steps):
        loss = _loss(model, next(batches))
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        on_step(step, loss.item())


def _loss(model: LlamaForCausalLM, rows: list[Encoded]) -> torch.Tensor:
    length = max(len(row.ids) for row in rows)
    # Padding comes last and attention is causal, so no mask is needed; its weight is zero.
    ids_BT = torch.tensor([row.ids + [0] * (length - len(row.ids)) for row in rows])
    weight_BT = torch.tensor([_weights(row, length) for row in rows])[:, 1:]
    logits_BTV = model(input_ids=ids_BT).logits[:, :-1]
    loss_BT = functional.cross_entropy(logits_BTV.transpose(1, 2), ids_BT[:, 1:], reduction="none")
    return (loss_BT * weight_BT).sum() / weight_BT.sum()


def _weights(row: Encoded, length: int) -> list[float]:
    num_completion = len(row.ids) - row.num_prompt
    return [PROMPT_WEIGHT] * row.num_prompt + [1.0] * num_completion + [0.0] * (length - len(row.ids))


def _save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Save in bf16: half the bytes, and its rounding does not affect the skills."""
    model.bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
