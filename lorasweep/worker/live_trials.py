"""The live trials of a worker: start, evaluate, save and end them."""

import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from lorasweep.adapters.peft_format import learn_formats
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
    """The live trials by number. Each has a slot of the bank from its start to its end."""

    def __init__(self, device: str, num_slots: int) -> None:
        self.device, self.num_slots = device, num_slots
        learn_formats()  # the first time this imports PEFT, whose memory is no trial's
        self.meter = Meter(torch.device(device))
        self.live: dict[int, LiveTrial] = {}
        self._session: Session | None = None

    @property
    def session(self) -> Session:
        assert self._session is not None, "the base of a live trial is loaded"
        return self._session

    @property
    def largest(self) -> LiveTrial:
        """Return the trial that adds most to the memory of the bank."""
        return max(self.live.values(), key=lambda live: live.memory_order)

    def load(self, model: ModelSpec) -> Session:
        """Load a base, after freeing any other base."""
        if self._session is None or self._session.base.spec != model:
            assert not self.live, "a base is replaced only when no trial is live"
            self._session = None  # frees its memory before the next base is loaded
            self._session = Session(model, self.device, self.num_slots)
            self.meter.reset()  # the peak of loading does not belong to a trial
        return self._session

    def start(self, command: Start) -> list[Event]:
        """Add a trial to the bank and restore its checkpoint; return notes on its data and the report to repeat."""
        trial, session = command.trial, self.load(command.trial.spec.model)
        events: list[Event] = [Note(text=note) for note in session.prepare(trial.spec)]
        train_state = self._take_slot(trial.number, trial.spec)
        live = LiveTrial(trial=trial, folder=command.folder, train_state=train_state, started_s=time.time())
        self.live[trial.number] = live
        note = load_checkpoint(live)
        session.bank.group_of(train_state.slot).publish(train_state.slot)
        if live.rung:  # the driver may have missed this report
            events.append(live.rung_event())
        return [*events, Note(text=note)] if note else events

    def _take_slot(self, number: int, spec: TrialSpec) -> TrainState:
        """Add a new adapter to the bank and return its training state."""
        bank, rows = self.session.bank, self.session.task(spec).train
        slot = bank.add(number, spec.lora, spec.train.seed, usual_tokens(rows, spec.train))
        try:
            return make_train_state(slot, spec.train, rows, spec.eval, spec.model.dtype)
        except BaseException:
            bank.remove(slot)
            raise

    def warm_up(self) -> list[Event]:
        """In a new bank, measure the memory of one pass over the longest rows, to correct predictions."""
        if self.session.is_warmed_up:
            return []
        live = self.largest
        self.session.is_warmed_up = True
        try:
            warm_up(self.session.bank, live.train_state, self.session.task(live.spec).train)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            live.train_state.rewind()  # training steps reduce the pass size themselves
            return []
        return [Measured(number=live.number, peak_bytes=self.meter.peak_bytes())]

    def evaluate_rung(self, lives: Sequence[LiveTrial]) -> list[Event]:
        """Evaluate the objective of trials at a rung; they share data and evaluation settings."""
        spec = lives[0].spec
        began_s = time.perf_counter()
        packed = self.session.packed([x.train_state.slot for x in lives], spec.eval)
        scored = rung_metrics(packed, self.session.task(spec), spec.eval)
        for live, metrics in zip(lives, scored, strict=True):
            live.eval_s = time.perf_counter() - began_s
            live.record(metrics, self.meter.peak_bytes())
        return [*(live.rung_event() for live in lives), *self.save(lives)]

    def finish(self, lives: Sequence[LiveTrial]) -> list[Event]:
        """Evaluate finished trials in full, save their adapters and free their slots."""
        spec = lives[0].spec
        began_s = time.perf_counter()
        packed = self.session.packed([x.train_state.slot for x in lives], spec.eval)
        task, probes, base = self.session.task(spec), self.session.probes(spec), self.session.base_score(spec)
        results = finish(packed, lives, task, probes, base, self.meter.peak_bytes())
        eval_s = time.perf_counter() - began_s
        results = [replace(result, cost=replace(result.cost, eval_s=eval_s)) for result in results]
        for live in lives:
            self._free(live)
        return [
            Finished(number=live.number, attempt=live.trial.attempt, result=result)
            for live, result in zip(lives, results, strict=True)
        ]

    def save(self, lives: Sequence[LiveTrial]) -> list[Event]:
        """Write checkpoints; return an event instead of raising if the disk is full."""
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
        """Save a trial and free its slot after out-of-memory."""
        events = self.save([live])
        self._free(live)
        self.session.base.empty_cache()
        return [*events, Evicted(number=live.number, reason=reason, attempt=live.trial.attempt)]

    def stop(self, command: Stop) -> list[Event]:
        """End a trial that the pruner stopped; do nothing if it has already ended."""
        if command.number not in self.live:
            return []
        event = self.end(command.number, TrialState.PRUNED, command.reason)
        return [replace(event, result=replace(event.result, stopped_by=command.rule))]

    def end(self, number: int, state: TrialState, reason: str) -> Finished:
        """End a live trial early; its result holds the measurements so far."""
        live = self.live[number]
        event = final_event(live, state, reason, self.session.base, self.meter.peak_bytes())
        self._free(live)
        return event

    def _free(self, live: LiveTrial) -> None:
        self.session.bank.remove(live.train_state.slot)
        del self.live[live.number]
        if not self.live:
            self.meter.reset()
