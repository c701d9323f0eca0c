"""The live trials of a worker: how each gets its slot, reports, is kept on disk, and leaves."""

import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from lorasweep.adapters.train import probe
from lorasweep.adapters.train_state import Learner, make_learner, usual_tokens
from lorasweep.core.errors import is_disk_full, is_out_of_memory
from lorasweep.core.result import DiskFull, Event, Evicted, Finished, Measured, Note, Start, Stop, TrialState
from lorasweep.core.spec import ModelSpec, TrialSpec
from lorasweep.worker.checkpoint import load_checkpoint, save_checkpoint
from lorasweep.worker.evaluate import final_event, finish, rung_metrics
from lorasweep.worker.live_trial import Live
from lorasweep.worker.memory_meter import Meter
from lorasweep.worker.session import Loaded


class LiveTrials:
    """Each live trial has a slot of the bank, from its start to its end."""

    def __init__(self, device: str, num_slots: int) -> None:
        self.device, self.num_slots = device, num_slots
        self.meter = Meter(torch.device(device))
        self.live: dict[int, Live] = {}
        self._loaded: Loaded | None = None

    @property
    def loaded(self) -> Loaded:
        assert self._loaded is not None, "a trial lives, so there is a base"
        return self._loaded

    @property
    def hungriest(self) -> Live:
        return max(self.live.values(), key=lambda live: live.appetite)

    def load(self, model: ModelSpec) -> Loaded:
        """Have this base in memory, and no other."""
        if self._loaded is None or self._loaded.base.spec != model:
            assert not self.live, "a base is changed only when no trial lives on it"
            self._loaded = None  # its memory is needed
            self._loaded = Loaded(model, self.device, self.num_slots)
            self.meter.reset()  # what loading took is no trial's need
        return self._loaded

    def start(self, command: Start) -> list[Event]:
        """Give a trial its slot and bring it to where its checkpoint was; notes say what was cut from the data."""
        loaded = self.load(command.spec.model)
        events: list[Event] = [Note(text=note) for note in loaded.prepare(command.spec)]
        learner = self._take_slot(command.number, command.spec)
        live = self.live[command.number] = Live(start=command, learner=learner, started_s=time.time())
        note = load_checkpoint(live)
        loaded.bank.group_of(learner.slot).publish(learner.slot)
        if live.rung:  # the driver may not have heard of it
            events.append(live.report())
        return [*events, Note(text=note)] if note else events

    def _take_slot(self, number: int, spec: TrialSpec) -> Learner:
        """Put a fresh adapter into a slot and return what trains it."""
        bank, rows = self.loaded.bank, self.loaded.task(spec).train
        slot = bank.add(number, spec.lora, spec.train.seed, usual_tokens(rows, spec.train))
        try:
            return make_learner(slot, spec.train, rows, spec.eval, spec.model.dtype)
        except BaseException:
            bank.remove(slot)
            raise

    def probe(self) -> list[Event]:
        """Measure one pass over the longest rows when a bank is new: the first lesson for predictions."""
        if self.loaded.is_probed:
            return []
        live = self.hungriest
        self.loaded.is_probed = True
        try:
            probe(self.loaded.bank, live.learner, self.loaded.task(live.spec).train)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            live.learner.rewind()  # what fits is found out by the steps themselves
            return []
        return [Measured(number=live.number, peak_bytes=self.meter.peak_bytes())]

    def rung(self, lives: Sequence[Live]) -> list[Event]:
        """Measure the objective of trials on their way, which share data and evaluation."""
        spec = lives[0].spec
        began_s = time.perf_counter()
        asked = self.loaded.asked([x.learner.slot for x in lives], spec.eval)
        scored = rung_metrics(asked, self.loaded.task(spec), spec.eval)
        for live, metrics in zip(lives, scored, strict=True):
            live.eval_s = time.perf_counter() - began_s
            live.reach(metrics, self.meter.peak_bytes())
        return [*(live.report() for live in lives), *self.save(lives)]

    def finish(self, lives: Sequence[Live]) -> list[Event]:
        """Measure finished trials in full, keep their adapters and free their slots."""
        spec = lives[0].spec
        began_s = time.perf_counter()
        asked = self.loaded.asked([x.learner.slot for x in lives], spec.eval)
        task, probes, base = self.loaded.task(spec), self.loaded.probes(spec), self.loaded.base_score(spec)
        results = finish(asked, lives, task, probes, base, self.meter.peak_bytes())
        eval_s = time.perf_counter() - began_s
        results = [replace(result, cost=replace(result.cost, eval_s=eval_s)) for result in results]
        for live in lives:
            self._free(live)
        return [
            Finished(number=live.number, attempt=live.start.attempt, result=result)
            for live, result in zip(lives, results, strict=True)
        ]

    def save(self, lives: Sequence[Live]) -> list[Event]:
        """Write checkpoints; a disk without room is no reason to stop training."""
        for live in lives:
            try:
                save_checkpoint(live)
            except OSError as error:
                return [DiskFull(reason=str(error)) if is_disk_full(error) else Note(text=f"no checkpoint: {error}")]
        return []

    def pause(self) -> list[Event]:
        """Keep every trial on disk and free its slot."""
        lives = list(self.live.values())
        events = self.save(lives)
        for live in lives:
            self._free(live)
        return events

    def evict(self, live: Live, reason: str) -> list[Event]:
        """Keep a trial on disk and free its slot, for want of memory."""
        events = self.save([live])
        self._free(live)
        self.loaded.base.empty_cache()
        return [*events, Evicted(number=live.number, reason=reason, attempt=live.start.attempt)]

    def stop(self, command: Stop) -> list[Event]:
        """End a trial that has lost; one that has ended meanwhile is let be."""
        if command.number not in self.live:
            return []
        event = self.end(command.number, TrialState.PRUNED, command.reason)
        return [replace(event, result=replace(event.result, stopped_by=command.rule))]

    def end(self, number: int, state: TrialState, reason: str) -> Finished:
        """End a live trial early, with what is known of it."""
        live = self.live[number]
        event = final_event(live, state, reason, self.loaded.base, self.meter.peak_bytes())
        self._free(live)
        return event

    def _free(self, live: Live) -> None:
        self.loaded.bank.remove(live.learner.slot)
        del self.live[live.number]
        if not self.live:
            self.meter.reset()
