"""On every architecture a packed trial equals the one that stock PEFT trains alone, one unpadded row at a time."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from evaluation.choices import option_choices
from evaluation.generate import greedy
from evaluation.scoring import TokenSequence
from lorasweep.adapters.bank import Bank
from lorasweep.adapters.load import load_base
from lorasweep.adapters.methods.lora import LoraSpec
from lorasweep.adapters.peft_format import save_adapter
from lorasweep.adapters.train import train_step
from lorasweep.adapters.train_state import TrainState, make_train_state
from lorasweep.core.spec import EvalSpec, ModelSpec, TrainSpec
from lorasweep.data.render import TokenRow
from lorasweep.models.base import Base
from lorasweep.models.info import resolve_targets
from lorasweep.models.tiny_base import VOCABULARY, WINDOW
from tests.architectures import SETTINGS, save_architecture, table_row

pytestmark = pytest.mark.slow
STEPS = 3
EPSILON = 1e-3  # with Adam's default, rounding of gradients near zero causes whole steps
NEW_TOKENS = 6


@dataclass(frozen=True, slots=True)
class Packed:
    """Two trained trials that shared a bank with one that had diverged; `plain` is the base in transformers."""

    base: Base
    plain: Any
    bank: Bank
    train_states: list[TrainState]
    starts: list[dict[str, Tensor]]


@pytest.fixture(scope="module", params=SETTINGS)
def packed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Packed:
    """A tiny base of the architecture, and two trials trained on it in a bank with a diverged one."""
    folder = save_architecture(request.param, tmp_path_factory.mktemp("base"))
    spec = ModelSpec(id=str(folder))
    base = load_base(spec, "cpu")
    bank = Bank(base, 3)
    every = resolve_targets(spec, "all-linear")
    loras = [
        LoraSpec(r=2, lora_alpha=4, target_modules=every),
        LoraSpec(r=3, lora_alpha=16, target_modules=every[:1]),
        LoraSpec(r=1, lora_alpha=1, target_modules=every[-1:]),
    ]
    trains = [
        TrainSpec(learning_rate=3e-2, per_device_train_batch_size=2, max_steps=STEPS, lr_scheduler_type="constant",
                  adam_epsilon=EPSILON),
        TrainSpec(learning_rate=1e-2, per_device_train_batch_size=1, gradient_accumulation_steps=3, max_steps=STEPS,
                  lr_scheduler_type="constant", seed=1, weight_decay=0.1, adam_epsilon=EPSILON),
        TrainSpec(learning_rate=1e-3, per_device_train_batch_size=2, max_steps=STEPS, seed=2),
    ]  # fmt: skip
    train_states, starts = [], []
    for number, (lora, train) in enumerate(zip(loras, trains, strict=True)):
        slot = bank.add(number, lora, train.seed)
        starts.append(bank.adapter(slot))
        train_states.append(make_train_state(slot, train, rows(), EvalSpec(rungs=1), "fp32"))
    diverged = train_states[-1].slot
    diverged.vector.data.fill_(torch.nan)
    bank.group_of(diverged).publish(diverged)
    for _ in range(2 * STEPS * 3):
        train_step(bank, [x for x in train_states if not x.is_done])
        if all(x.is_done for x in train_states):
            break
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return Packed(base, plain, bank, train_states, starts)


def rows() -> list[TokenRow]:
    """Rows shorter and much longer than a window, in an odd number."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for length in (5, 3 * WINDOW, WINDOW, 2 * WINDOW + 3, 4):
        ids = tuple(torch.randint(4, VOCABULARY, (length,), generator=generator).tolist())
        found.append(TokenRow(ids=ids, is_label=tuple(i >= length // 2 for i in range(length)), prompt_length=2))
    return found


def stock(packed: Packed, number: int) -> Any:
    """The same base in stock PEFT, with the initial adapter of a trial."""
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

    lora = packed.train_states[number].slot.spec
    assert isinstance(lora, LoraSpec)
    config = LoraConfig(r=lora.r, lora_alpha=int(lora.lora_alpha), target_modules=list(lora.target_modules),
                        fan_in_fan_out=packed.base.info.is_transposed)  # fmt: skip
    peft_model: Any = get_peft_model(deepcopy(packed.plain), config)
    set_peft_model_state_dict(peft_model, packed.starts[number])
    return peft_model.eval()


def nats(model: Any, row: TokenRow) -> Tensor:
    """Summed loss of a row's labels, the row alone in its batch."""
    logits = model(input_ids=torch.tensor([row.ids]), use_cache=False).logits[0, :-1].float()
    losses = torch.nn.functional.cross_entropy(logits, torch.tensor(row.ids[1:]), reduction="none")
    return losses[torch.tensor(row.is_label[1:])].sum()


def train_stock(model: Any, train_state: TrainState) -> list[float]:
    """Train in a plain loop and return the losses."""
    from lorasweep.data.batches import epoch_order

    spec, every = train_state.spec, rows()
    params = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(params, lr=spec.learning_rate, weight_decay=spec.weight_decay, eps=EPSILON)
    size = spec.per_device_train_batch_size * spec.gradient_accumulation_steps
    losses: list[float] = []
    epoch = 0
    while len(losses) < STEPS:
        order = epoch_order(len(every), spec.seed, epoch)
        for start in range(0, len(order), size):
            chosen = [every[i] for i in order[start : start + size]]
            loss = torch.stack([nats(model, row) for row in chosen]).sum() / sum(row.num_labels for row in chosen)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(params, spec.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        epoch += 1
    return losses[:STEPS]


def questions() -> list[list[TokenSequence]]:
    generator = torch.Generator().manual_seed(1)

    def draw(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(4, VOCABULARY, (length,), generator=generator).tolist())

    prompts = [draw(length) for length in (3, 2 * WINDOW + 1)]
    return [[TokenSequence(ids=p + draw(k), prompt_length=len(p)) for k in (1, 4, 2)] for p in prompts]


@torch.no_grad()
def loaded(packed: Packed, number: int, folder: Path) -> Any:
    """Stock PEFT with the adapter that lorasweep saved; its logits are those of the trial's slot."""
    from peft import PeftModel

    base, slot = packed.base, packed.train_states[number].slot
    save_adapter(packed.bank, slot, folder)
    model: Any = PeftModel.from_pretrained(deepcopy(packed.plain), str(folder)).eval()
    for row in rows():
        ids, places = torch.tensor([row.ids]), torch.arange(len(row.ids))
        with packed.bank.rows([(slot, 1)]):
            logits = base.label_logits(ids, torch.zeros_like(places), places)
        assert torch.allclose(logits, model(input_ids=ids, use_cache=False).logits[0], atol=1e-4)
    return model


@torch.no_grad()
def option_nats(model: Any, option: TokenSequence) -> float:
    """Log-probability of an option that is alone in its batch."""
    labels = tuple(i >= option.prompt_length for i in range(len(option.ids)))
    return -float(nats(model, TokenRow(ids=option.ids, is_label=labels, prompt_length=option.prompt_length)))


@torch.no_grad()
def written(model: Any, prompt: Sequence[int]) -> list[int]:
    """Greedy tokens after a prompt that is alone in its batch."""
    ids = torch.tensor([prompt])
    found = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=NEW_TOKENS,
        min_new_tokens=NEW_TOKENS, eos_token_id=[], pad_token_id=0,
    )  # fmt: skip
    return list(found[0, len(prompt) :].tolist())


def test_it_trains_and_answers_and_writes_as_in_stock_peft(packed: Packed, tmp_path: Path) -> None:
    for train_state, model in zip(packed.train_states, (stock(packed, 0), stock(packed, 1)), strict=False):
        assert [loss for _, loss, _ in train_state.losses] == pytest.approx(train_stock(model, train_state), rel=5e-5)
    packed.base.model.eval()
    models = [loaded(packed, number, tmp_path / str(number)) for number in (0, 1)]
    base, bank = packed.base, packed.bank
    engine: Any = base.model
    slots = [train_state.slot for train_state in packed.train_states]  # that of the diverged trial too
    ask: dict[str, Any] = {"pad_id": 0, "copies": 3, "rows": lambda count: bank.rows([(slot, count) for slot in slots])}
    size = 64 if base.shortcuts.can_pad else 3
    scored = option_choices(base.label_logits, questions(), **base.option_logits, batch_rows=size, **ask)
    expected = [[option_nats(model, option) for question in questions() for option in question] for model in models]
    assert scored.likelihoods.logprobs[:2].tolist() == [pytest.approx(x, abs=1e-3, rel=1e-5) for x in expected]
    prompts = [row.ids for row in rows()]
    texts = greedy(engine, prompts, eos_ids=(), max_new_tokens=NEW_TOKENS, batch_rows=size,
                   one_length=base.shortcuts.generation != "padded",
                   use_cache=base.shortcuts.generation != "no_cache", **ask)  # fmt: skip
    assert texts[:2] == [[written(model, prompt) for prompt in prompts] for model in models]


def test_the_documentation_lists_how_its_batches_run(packed: Packed, request: pytest.FixtureRequest) -> None:
    kind = request.node.callspec.params["packed"]
    table = Path(__file__).resolve().parent.parent / "docs" / "which-bases.md"
    assert table_row(kind, packed.base) in table.read_text().splitlines()
