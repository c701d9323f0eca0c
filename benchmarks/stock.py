"""The baseline of a step: stock PEFT, one trial per base, in a plain PyTorch loop without lorasweep."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from benchmarks.trials import Trial
from lorasweep.adapters.methods.table import method_of
from lorasweep.data.batches import MicroBatch, micro_batches
from lorasweep.data.render import TokenRow


@dataclass(eq=False, slots=True)
class StockTrial:
    """A PEFT model, its optimizer and its batches."""

    model: Any
    optimizer: torch.optim.Optimizer
    batches: Iterator[MicroBatch]
    max_grad_norm: float
    losses: list[float] = field(default_factory=list)

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def step(self) -> None:
        """Take one optimizer step."""
        loss = self.model(**collate(next(self.batches), self.parameters[0].device)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.losses.append(float(loss.detach()))


def collate(batch: MicroBatch, device: torch.device) -> dict[str, Tensor]:
    """Pad to the longest row, as a data collator does; prompt and padding carry no label."""
    ids = [torch.tensor(row.ids) for row in batch.rows]
    labels = [x.where(torch.tensor(row.is_label), -100) for x, row in zip(ids, batch.rows, strict=True)]
    tensors = {
        "input_ids": pad_sequence(ids, batch_first=True),
        "attention_mask": pad_sequence([torch.ones_like(x) for x in ids], batch_first=True),
        "labels": pad_sequence(labels, batch_first=True, padding_value=-100),
    }
    return {name: tensor.to(device) for name, tensor in tensors.items()}


def stock_trial(base: Any, trial: Trial, rows: Sequence[TokenRow], start: dict[str, Tensor]) -> StockTrial:
    """Return a trial that starts from the adapter `start`, on its own base."""
    lora, train = trial
    settings: Any = method_of(lora).peft_settings(lora)
    model: Any = get_peft_model(base, LoraConfig(target_modules=list(lora.target_modules), **settings))
    set_peft_model_state_dict(model, start)
    params = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(params, lr=train.learning_rate, weight_decay=train.weight_decay, fused=True)
    batches = micro_batches(rows, batch_size=train.per_device_train_batch_size, accumulation=1, seed=train.seed)
    return StockTrial(model, optimizer, batches, train.max_grad_norm)
