"""What a worker has loaded: a base with its bank, and the data and the probes' baselines of its trials."""

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
from lorasweep.worker.scoring import Asked


class Session:
    """A base, its bank, and what was read or measured for trials on it: each once."""

    def __init__(self, spec: ModelSpec, device: str, num_slots: int) -> None:
        self.base = load_base(spec, device)
        self.bank = Bank(self.base, num_slots)
        self.is_warmed_up = False  # whether the memory of its longest rows was measured
        self._tasks: dict[str, Task] = {}
        self._probes: dict[EvalSpec, Probes] = {}
        self._base_scores: dict[tuple[str, EvalSpec], BaseScore] = {}

    def prepare(self, spec: TrialSpec) -> tuple[str, ...]:
        """Have a trial's probes measured on the base and its data in memory; return notes on data that is new."""
        self.probes(spec)
        notes = () if self._tasks else self._plain_passes()
        is_known = spec.data_key in self._tasks
        task = self.task(spec)
        return notes if is_known else (*notes, *task.notes)

    def _plain_passes(self) -> tuple[str, ...]:
        """Say which shortcuts this base does not allow."""
        plain = "; ".join(self.base.shortcuts.slow_ways)
        return (f"{self.base.info.name}: {plain}, because a faster way is not exact on it",) if plain else ()

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
        """Return what the base without adapter scores on a trial's validation examples."""
        key = (spec.data_key, spec.eval)
        if key not in self._base_scores:
            self._base_scores[key] = base_score(self.base, self.task(spec), spec.eval)
        return self._base_scores[key]

    def asked(self, slots: Sequence[Slot], spec: EvalSpec) -> Asked:
        """Return who is to answer the questions of an evaluation."""
        return Asked(self.base, self.bank, tuple(slots), spec.batch_rows)

    def score(self, command: Score) -> dict[str, float]:
        """Score a kept adapter on the test split."""
        spec, number = command.trial.spec, command.trial.number
        slot = self.bank.add(number, spec.lora, spec.train.seed)
        try:
            self.bank.load(slot, load_adapter(Path(command.adapter)))
            return test_metrics(self.asked((slot,), spec.eval), self.task(spec), spec.eval)
        finally:
            self.bank.remove(slot)
