"""The live trials of a worker: how each gets its slot, reports, is kept on disk, and leaves."""

import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from lorasweep.adapters.train import warm_up
from lorasweep.adapters.train_state import TrainState, make_train_state, usual_tokens
from lorasweep.core.errors import is_disk_full, is_out_of_memory
from lorasweep.core.messages import DiskFull, Event, Evicted, Finished, Measured, Note, Start, Stop
from lorasweep.core.result import TrialState
from lorasweep.core.spec import ModelSpec, TrialSpec
from lorasweep.worker.checkpoint import load_checkpoint, save_checkpoint
from lorasweep.worker.evaluate import final_event, finish, rung_metrics
from lorasweep.worker.live_trial import LiveTrial
from lorasweep.worker.memory_meter import Meter
from lorasweep.worker.session import Session


class LiveTrials:
    """Each live trial has a slot of the bank, from its start to its end."""

    def __init__(self, device: str, num_slots: int) -> None:
        self.device, self.num_slots = device, num_slots
        self.meter = Meter(torch.device(device))
        self.live: dict[int, LiveTrial] = {}
        self._session: Session | None = None

    @property
    def session(self) -> Session:
        assert self._session is not None, "a live trial has a base"
        return self._session

    @property
    def largest(self) -> LiveTrial:
        """Return the trial that adds most to the memory of the bank."""
        return max(self.live.values(), key=lambda live: live.memory_order)

    def load(self, model: ModelSpec) -> Session:
        """Load a base and let go of any other."""
        if self._session is None or self._session.base.spec != model:
            assert not self.live, "a base is changed only when no trial is live"
            self._session = None  # frees its memory first
            self._session = Session(model, self.device, self.num_slots)
            self.meter.reset()  # memory of loading is not a trial's
        return self._session

    def start(self, command: Start) -> list[Event]:
        """Give a trial its slot and bring it to its checkpoint; notes say what was cut from the data."""
        trial, session = command.trial, self.load(command.trial.spec.model)
        events: list[Event] = [Note(text=note) for note in session.prepare(trial.spec)]
        train_state = self._take_slot(trial.number, trial.spec)
        live = LiveTrial(trial=trial, folder=command.folder, train_state=train_state, started_s=time.time())
        self.live[trial.number] = live
        note = load_checkpoint(live)
        session.bank.group_of(train_state.slot).publish(train_state.slot)
        if live.rung:  # the driver may not have this report
            events.append(live.rung_event())
        return [*events, Note(text=note)] if note else events

    def _take_slot(self, number: int, spec: TrialSpec) -> TrainState:
        """Put a fresh adapter into a slot and return what trains it."""
        bank, rows = self.session.bank, self.session.task(spec).train
        slot = bank.add(number, spec.lora, spec.train.seed, usual_tokens(rows, spec.train))
        try:
            return make_train_state(slot, spec.train, rows, spec.eval, spec.model.dtype)
        except BaseException:
            bank.remove(slot)
            raise

    def warm_up(self) -> list[Event]:
        """Measure the memory of one pass over the longest rows when a bank is new, to correct predictions."""
        if self.session.is_warmed_up:
            return []
        live = self.largest
        self.session.is_warmed_up = True
        try:
            warm_up(self.session.bank, live.train_state, self.session.task(live.spec).train)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            live.train_state.rewind()  # the training steps find out what fits
            return []
        return [Measured(number=live.number, peak_bytes=self.meter.peak_bytes())]

    def evaluate_rung(self, lives: Sequence[LiveTrial]) -> list[Event]:
        """Measure the objective of trials at a rung, which share data and evaluation."""
        spec = lives[0].spec
        began_s = time.perf_counter()
        asked = self.session.asked([x.train_state.slot for x in lives], spec.eval)
        scored = rung_metrics(asked, self.session.task(spec), spec.eval)
        for live, metrics in zip(lives, scored, strict=True):
            live.eval_s = time.perf_counter() - began_s
            live.record(metrics, self.meter.peak_bytes())
        return [*(live.rung_event() for live in lives), *self.save(lives)]

    def finish(self, lives: Sequence[LiveTrial]) -> list[Event]:
        """Measure finished trials in full, keep their adapters and free their slots."""
        spec = lives[0].spec
        began_s = time.perf_counter()
        asked = self.session.asked([x.train_state.slot for x in lives], spec.eval)
        task, probes, base = self.session.task(spec), self.session.probes(spec), self.session.base_score(spec)
        results = finish(asked, lives, task, probes, base, self.meter.peak_bytes())
        eval_s = time.perf_counter() - began_s
        results = [replace(result, cost=replace(result.cost, eval_s=eval_s)) for result in results]
        for live in lives:
            self._free(live)
        return [
            Finished(number=live.number, attempt=live.trial.attempt, result=result)
            for live, result in zip(lives, results, strict=True)
        ]

    def save(self, lives: Sequence[LiveTrial]) -> list[Event]:
        """Write checkpoints; training goes on where the disk is full."""
        for live in lives:
            try:
                save_checkpoint(live)
            except OSError as error:
                return [DiskFull(reason=str(error)) if is_disk_full(error) else Note(text=f"no checkpoint: {error}")]
        return []

    def pause(self) -> list[Event]:
        """Save every trial and free its slot."""
        lives = list(self.live.values())
        events = self.save(lives)
        for live in lives:
            self._free(live)
        return events

    def evict(self, live: LiveTrial, reason: str) -> list[Event]:
        """Save a trial and free its slot because memory is short."""
        events = self.save([live])
        self._free(live)
        self.session.base.empty_cache()
        return [*events, Evicted(number=live.number, reason=reason, attempt=live.trial.attempt)]

    def stop(self, command: Stop) -> list[Event]:
        """End a trial that the pruner stopped; do nothing where it has ended meanwhile."""
        if command.number not in self.live:
            return []
        event = self.end(command.number, TrialState.PRUNED, command.reason)
        return [replace(event, result=replace(event.result, stopped_by=command.rule))]

    def end(self, number: int, state: TrialState, reason: str) -> Finished:
        """End a live trial early; its result holds what was measured so far."""
        live = self.live[number]
        event = final_event(live, state, reason, self.session.base, self.meter.peak_bytes())
        self._free(live)
        return event

    def _free(self, live: LiveTrial) -> None:
        self.session.bank.remove(live.train_state.slot)
        del self.live[live.number]
        if not self.live:
            self.meter.reset()
