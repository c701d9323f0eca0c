"""What people run today: stock PEFT, one trial at a time, in a plain PyTorch loop. No part of lorasweep trains here."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lorasweep.core.spec import LoraSpec, TrainSpec
from lorasweep.data.batches import MicroBatch


@dataclass(eq=False, slots=True)
class StockTrial:
    """One trial: a PEFT model with one active adapter, its optimizer and its batches."""

    model: Any
    adapter: str
    optimizer: torch.optim.Optimizer
    batches: Iterator[MicroBatch]
    max_grad_norm: float
    losses: list[float]

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def step(self) -> None:
        """Take one optimizer step."""
        if self.model.active_adapter != self.adapter:
            self.model.set_adapter(self.adapter)
        batch = next(self.batches)
        loss = self.model(**collate(batch, self.parameters[0].device)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.losses.append(float(loss.detach()))

    def has_gradients(self) -> bool:
        """Tell whether every adapter matrix moves: B from the first step on, A from the second."""
        before = [p.detach().clone() for p in self.parameters]
        for _ in range(2):
            self.step()
        return all(not torch.equal(b, p) for b, p in zip(before, self.parameters, strict=True))


def collate(batch: MicroBatch, device: torch.device) -> dict[str, Tensor]:
    """Pad to the longest row, as a data collator does; prompt and padding carry no label."""
    width = max(len(row.ids) for row in batch.rows)
    ids = torch.zeros(len(batch.rows), width, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for i, row in enumerate(batch.rows):
        ids[i, : len(row.ids)] = torch.tensor(row.ids)
        mask[i, : len(row.ids)] = 1
        labels[i, : len(row.ids)] = torch.tensor(
            [t if on else -100 for t, on in zip(row.ids, row.is_label, strict=True)]
        )
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device), "labels": labels.to(device)}


def stock_trial(
    base: Any, lora: LoraSpec, train: TrainSpec, batches: Iterator[MicroBatch], start: dict[str, Tensor]
) -> StockTrial:
    """Return a trial on a base of its own, or, where the base is a PEFT model already, as one more adapter on it."""
    from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict

    config = LoraConfig(r=lora.r, lora_alpha=int(lora.lora_alpha), target_modules=list(lora.target_modules))
    if isinstance(base, PeftModel):
        name = f"trial{len(base.peft_config)}"
        base.add_adapter(name, config)
        base.set_adapter(name)
        model: Any = base
    else:
        name = "default"
        model = get_peft_model(base, config)
    set_peft_model_state_dict(model, start, adapter_name=name)
    params = [p for n, p in model.named_parameters() if f".{name}." in n]
    optimizer = torch.optim.AdamW(params, lr=train.learning_rate, weight_decay=train.weight_decay, fused=True)
    return StockTrial(model, name, optimizer, batches, train.max_grad_norm, [])
