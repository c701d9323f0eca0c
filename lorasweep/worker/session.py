"""The loaded state of a worker: a base with its bank, and the data and baseline scores of its trials."""

from collections.abc import Sequence
from pathlib import Path

from lorasweep.adapters.bank import Bank
from lorasweep.adapters.load import load_base
from lorasweep.adapters.peft_format import load_adapter
from lorasweep.adapters.slot import Slot
from lorasweep.core.messages import Score
from lorasweep.core.result import BaseScore
from lorasweep.core.spec import EvalSpec, ModelSpec, TrialSpec
from lorasweep.data.tasks import Task, load_task
from lorasweep.models.tokenizer import tokenizer_key
from lorasweep.worker.baseline import base_score
from lorasweep.worker.evaluate import test_metrics
from lorasweep.worker.probes import Probes
from lorasweep.worker.scoring import PackedModel


class Session:
    """A base and its bank, with data and baseline scores that its trials share."""

    def __init__(self, spec: ModelSpec, device: str, num_slots: int) -> None:
        self.base = load_base(spec, device)
        self.bank = Bank(self.base, num_slots)
        self.is_warmed_up = False  # whether the memory of a pass over the longest rows was measured
        self._tasks: dict[str, Task] = {}
        self._probes: dict[EvalSpec, Probes] = {}
        self._base_scores: dict[tuple[str, EvalSpec], BaseScore] = {}

    def prepare(self, spec: TrialSpec) -> tuple[str, ...]:
        """Score a trial's probes on the base and load its data; return notes, only on data loaded just now."""
        self.probes(spec)
        notes = () if self._tasks else self._slow_paths()
        is_known = spec.data_key in self._tasks
        task = self.task(spec)
        return notes if is_known else (*notes, *task.notes)

    def _slow_paths(self) -> tuple[str, ...]:
        """Return a note on the shortcuts that are not exact on this base."""
        slow = "; ".join(self.base.shortcuts.slow_ways)
        return (f"{self.base.info.name}: {slow}, because the faster method is not exact on this base",) if slow else ()

    def task(self, spec: TrialSpec) -> Task:
        """Return a trial's rows."""
        if spec.data_key not in self._tasks:
            self._tasks[spec.data_key] = load_task(spec.data, self.base.tokenizer, tokenizer_key(self.base.tokenizer))
        return self._tasks[spec.data_key]

    def probes(self, spec: TrialSpec) -> Probes:
        """Return a trial's probes, with the base's own scores."""
        if spec.eval not in self._probes:
            self._probes[spec.eval] = Probes(self.base, spec.eval)
        return self._probes[spec.eval]

    def base_score(self, spec: TrialSpec) -> BaseScore:
        """Return the baseline scores on a trial's validation examples."""
        key = (spec.data_key, spec.eval)
        if key not in self._base_scores:
            self._base_scores[key] = base_score(self.base, self.task(spec), spec.eval)
        return self._base_scores[key]

    def packed(self, slots: Sequence[Slot], spec: EvalSpec) -> PackedModel:
        """Return the base with these slots, to score in one pass."""
        return PackedModel(self.base, self.bank, tuple(slots), spec.batch_rows)

    def score(self, command: Score) -> dict[str, float]:
        """Score a saved adapter on the test split."""
        spec, number = command.trial.spec, command.trial.number
        slot = self.bank.add(number, spec.lora, spec.train.seed)
        try:
            self.bank.load(slot, load_adapter(Path(command.adapter)))
            return test_metrics(self.packed((slot,), spec.eval), self.task(spec), spec.eval)
        finally:
            self.bank.remove(slot)
