"""Save and restore the state that a live trial needs to continue in another process, as one file.

Tensors are stored without the padding of their stack. The file holds tensors and JSON only, so reading it runs no code.
"""

import json
import struct
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from lorasweep.adapters.slot import Slot, Tensors
from lorasweep.adapters.train_state import TrainState
from lorasweep.core.files import write_bytes
from lorasweep.core.messages import CHECKPOINT
from lorasweep.core.result import Point
from lorasweep.core.spec import TrialSpec, digest
from lorasweep.worker.live_trial import LiveTrial

FORMAT = 1  # increment it when the content changes


def save_checkpoint(live: LiveTrial) -> None:
    """Write a trial's state after its last optimizer step.

    Raises:
        OSError: the file could not be written; the previous checkpoint is unchanged.
    """
    facts = {"format": FORMAT, "spec": _key(live.spec), "learner": _counters(live.train_state), "live": _report(live)}
    slot = live.train_state.slot
    tensors = {**_named("weights", slot, slot.tensors), **_optimizer_tensors(live.train_state, facts)}
    data = save({name: x.detach().cpu().contiguous() for name, x in tensors.items()}, {"facts": json.dumps(facts)})
    write_bytes(Path(live.folder) / CHECKPOINT, data)
    live.saved_s = time.monotonic()


def load_checkpoint(live: LiveTrial) -> str:
    """Restore a new trial from its checkpoint, if it has one; return a note if the checkpoint cannot be used.

    The trial changes only if the whole checkpoint could be read.
    """
    path = Path(live.folder) / CHECKPOINT
    if not path.is_file():
        return ""
    try:
        facts, tensors = _read(path)
        if (facts["format"], facts["spec"]) != (FORMAT, _key(live.spec)):
            return f"trial {live.number}: {path} belongs to another trial or version; the trial starts again"
        slot, optimizer = live.train_state.slot, _optimizer_states(live.train_state, facts, tensors)
        history = [Point(**point) for point in facts["live"].pop("history")]
        weights = _pairs(slot, slot.tensors, tensors, "weights")
        _restore_counters(live.train_state, facts["learner"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        return f"trial {live.number}: {path} cannot be read ({error}); the trial starts again"
    for own, stored in weights:
        own.copy_(stored)
    for parameter, state in optimizer:
        live.train_state.optimizer.state[parameter] = state
    _restore_report(live, facts["live"], history)
    live.train_state.rewind()
    return ""


def _key(spec: TrialSpec) -> str:
    """Return a digest of the whole spec, including the rungs, which are not part of its fingerprint."""
    return digest(asdict(spec))


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8]) if len(data) >= 8 else (0,)
    header = json.loads(data[8 : 8 + size])
    facts: dict[str, Any] = json.loads(header["__metadata__"]["facts"])
    return facts, load(data)


def _counters(x: TrainState) -> dict[str, Any]:
    return {
        "step": x.step,
        "micro_step": x.micro_step - x.partial.num_micro,
        "loss": x.loss,
        "losses": x.losses,
        "num_tokens": x.num_tokens,
        "train_s": x.train_s,
        "schedule": x.schedule.state_dict(),
        "rates": [group["lr"] for group in x.optimizer.param_groups],
        "scaler": x.scaler.state_dict(),
    }


def _restore_counters(x: TrainState, facts: dict[str, Any]) -> None:
    step, micro_step, train_s = int(facts["step"]), int(facts["micro_step"]), float(facts["train_s"])
    losses = [(int(at), float(loss), float(rate)) for at, loss, rate in facts["losses"]]
    loss, num_tokens, rates = float(facts["loss"]), int(facts["num_tokens"]), [float(r) for r in facts["rates"]]
    if not (0 <= step <= x.num_steps and len(losses) == step and len(rates) == len(x.optimizer.param_groups)):
        raise ValueError("its counters are inconsistent")
    if x.scaler.is_enabled():
        x.scaler.load_state_dict(facts["scaler"])
    x.schedule.load_state_dict(facts["schedule"])
    for group, rate in zip(x.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    x.step, x.micro_step, x.train_s, x.losses, x.loss = step, micro_step, train_s, losses, loss
    x.num_tokens = num_tokens


def _report(live: LiveTrial) -> dict[str, Any]:
    return {
        "rung": live.rung,
        "shared_by": live.shared_by,
        "metrics": live.metrics,
        "history": [asdict(point) for point in live.history],
        "started_s": live.started_s,
        "wall_s": live.wall_s,
        "eval_s": live.eval_s,
    }


def _restore_report(live: LiveTrial, facts: dict[str, Any], history: list[Point]) -> None:
    live.rung, live.shared_by, live.metrics = facts["rung"], facts["shared_by"], facts["metrics"]
    live.history, live.started_s, live.before_s = history, facts["started_s"], facts["wall_s"]
    live.eval_s = facts.get("eval_s", 0.0)  # older checkpoints have none


def _named(prefix: str, slot: Slot, tensors: Tensors) -> dict[str, Tensor]:
    """Return the tensors of all linear layers by their names in a checkpoint."""
    return {
        f"{prefix}/{path}/{name}": x
        for path, parts in tensors.items()
        for name, x in zip(slot.method.tensor_names, parts, strict=True)
    }


def _pairs(slot: Slot, own: Tensors, stored: dict[str, Tensor], prefix: str) -> list[tuple[Tensor, Tensor]]:
    """Return each tensor of a slot with the stored tensor of the same name."""
    return [(x, stored[name]) for name, x in _named(prefix, slot, own).items()]


def _optimizer_tensors(x: TrainState, facts: dict[str, Any]) -> dict[str, Tensor]:
    """Return the optimizer's tensors by parameter; numbers go into `facts`."""
    tensors: dict[str, Tensor] = {}
    plain: list[dict[str, Any]] = []
    for i, parameter in enumerate(_parameters(x)):
        state = x.optimizer.state.get(parameter, {})
        plain.append({name: value for name, value in state.items() if not isinstance(value, Tensor)})
        for name, value in state.items():
            if isinstance(value, Tensor) and _is_laid_out(x.slot, parameter, value):
                tensors |= _named(f"state/{i}/{name}", x.slot, x.slot.views(value))
            elif isinstance(value, Tensor):
                tensors[f"state/{i}/{name}"] = value
    facts["plain"] = plain
    return tensors


def _optimizer_states(
    x: TrainState, facts: dict[str, Any], tensors: dict[str, Tensor]
) -> list[tuple[Tensor, dict[str, Any]]]:
    """Return each parameter's optimizer state in the current layout of the slot."""
    found = []
    for i, parameter in enumerate(_parameters(x)):
        state: dict[str, Any] = dict(facts["plain"][i])
        names = {name.split("/")[2] for name in tensors if name.startswith(f"state/{i}/")}
        for name in names:
            whole = tensors.get(f"state/{i}/{name}")
            state[name] = _padded(x.slot, name, i, tensors) if whole is None else _on_device(x, parameter, whole)
        found.append((parameter, state))
    return [(parameter, state) for parameter, state in found if state]


def _padded(slot: Slot, name: str, index: int, tensors: dict[str, Tensor]) -> Tensor:
    flat = torch.zeros_like(slot.vector.data)
    for own, stored in _pairs(slot, slot.views(flat), tensors, f"state/{index}/{name}"):
        own.copy_(stored)
    return flat


def _on_device(x: TrainState, parameter: Tensor, value: Tensor) -> Tensor:
    """Copy a state's tensor to the device; a paged optimizer allocates large ones itself."""
    make = getattr(x.optimizer, "get_state_buffer", None)
    if make is None or value.shape != parameter.shape:
        return value.to(parameter.device)
    buffer: Tensor = make(parameter, dtype=value.dtype)
    return buffer.copy_(value)


def _parameters(x: TrainState) -> list[Tensor]:
    return [parameter for group in x.optimizer.param_groups for parameter in group["params"]]


def _is_laid_out(slot: Slot, parameter: Tensor, value: Tensor) -> bool:
    return parameter is slot.vector and value.shape == slot.vector.shape
