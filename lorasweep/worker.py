"""One device, one base, one bank: train and evaluate the trials one is told to.

The driver's whole contract with a worker is `Worker.advance`. An exception becomes a trial's state here and nowhere
else.
"""

import logging
import math
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from lorasweep.adapters import load_adapter
from lorasweep.bank import Bank
from lorasweep.checkpoint import load_checkpoint, save_checkpoint
from lorasweep.data.tasks import Task, load_task
from lorasweep.errors import LoraSweepError, is_disk_full, is_out_of_memory
from lorasweep.files import redact
from lorasweep.learner import make_learner, mean_loss, usual_tokens
from lorasweep.live import Live
from lorasweep.meter import Meter
from lorasweep.model import Base, load_base, tokenizer_key
from lorasweep.outcome import failed, final_event, finish, rung_metrics, test_metrics
from lorasweep.probes import Probes
from lorasweep.result import (
    NOT_FINITE,
    Command,
    DiskFull,
    Event,
    Evicted,
    Finished,
    Measured,
    Note,
    Pause,
    Progress,
    Rung,
    Score,
    Scored,
    Start,
    Stop,
    TrialState,
)
from lorasweep.score import Asked
from lorasweep.spec import EvalSpec, TrialSpec
from lorasweep.train import probe, train_step

log = logging.getLogger(__name__)

SAVE_EVERY_S = 600.0  # between rungs that lie far apart


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """What a worker is made of."""

    device: str
    num_slots: int
    num_threads: int = 0
    visible: str = ""  # what CUDA_VISIBLE_DEVICES says to a worker in a process of its own
    slice_s: float = 1.0  # a worker speaks at least this often, so that the driver can stop it


class Worker:
    """See `advance`."""

    def __init__(self, settings: WorkerSettings) -> None:
        self.settings = settings
        self.device = torch.device(settings.device)
        if settings.num_threads:
            torch.set_num_threads(settings.num_threads)
        self.meter = Meter(self.device)
        self.base: Base | None = None
        self.bank: Bank | None = None
        self.tasks: dict[str, Task] = {}
        self.probes: dict[str, Probes] = {}
        self.live: dict[int, Live] = {}
        self.is_probed = False

    def advance(self, commands: Sequence[Command]) -> list[Event]:
        """Start and stop trials, train every live slot until one reaches a rung or the time slice ends, evaluate.

        Args:
            commands: what to do first, in order.

        Returns:
            What happened: progress of live trials, rungs with the objective, finished trials.
        """
        events: list[Event] = []
        for command in commands:
            events += self._obey(command)
        if self.live:
            events += self._guarded(list(self.live), self._train)
        return events

    def _obey(self, command: Command) -> list[Event]:
        if isinstance(command, Start):
            return self._guarded([command.number], lambda: self._start(command), command)
        if isinstance(command, Score):
            return [Scored(number=command.number, metrics=self._score(command))]
        if isinstance(command, Pause):
            return self._pause()
        return self._stop(command)

    def _start(self, command: Start) -> list[Event]:
        spec = command.spec
        events = self._prepare(spec)
        assert self.bank is not None and self.base is not None
        rows = self.tasks[spec.data_key].train
        slot = self.bank.add(command.number, spec.lora, spec.train.seed, usual_tokens(rows, spec.train))
        try:
            learner = make_learner(
                slot, spec.train, rows, spec.eval.rungs, spec.model.dtype, rung_factor=spec.eval.rung_factor
            )
        except BaseException:
            self.bank.remove(slot)
            raise
        live = self.live[command.number] = Live(start=command, learner=learner, started_s=time.time())
        note = load_checkpoint(live)
        self.bank.group_of(slot).publish(slot)
        if live.rung:  # the driver may not have heard of it
            events.append(_report_of(live))
        return [*events, Note(text=note)] if note else events

    def _prepare(self, spec: TrialSpec) -> list[Event]:
        """Have the spec's base, data and probe baselines in memory; notes say what was cut from the data."""
        if self.base is None or self.base.spec != spec.model:
            assert not self.live, "a base is changed only when no trial lives on it"
            self.base = self.bank = None
            self.tasks, self.probes = {}, {}
            base = load_base(spec.model, self.settings.device)
            self.bank = Bank(base, self.settings.num_slots)
            self.base, self.is_probed = base, False
            self.meter.reset()  # what loading took is no trial's need
        if repr(spec.eval) not in self.probes:
            self.probes[repr(spec.eval)] = Probes(self.base, spec.eval)
        if spec.data_key in self.tasks:
            return []
        task = load_task(spec.data, self.base.tokenizer, tokenizer_key(self.base.tokenizer))
        self.tasks[spec.data_key] = task
        return [Note(text=note) for note in task.notes]

    def _train(self) -> list[Event]:
        """Train all live slots until one of them has something to report."""
        assert self.bank is not None
        self.bank.set_mode(checkpointing=any(x.spec.train.activation_checkpointing for x in self.live.values()))
        events: list[Event] = self._probe()
        deadline = time.perf_counter() + self.settings.slice_s
        lives = list(self.live.values())
        for live in lives:
            live.shared_by = max(live.shared_by, len(lives))
        # A trial may be due already: taken up at a rung, or its last report could not be made.
        while not (broken := _broken(lives)) and not any(live.is_due for live in lives):
            train_step(self.bank, [live.learner for live in lives])
            if time.perf_counter() > deadline:
                broken = _broken(lives)
                break
        events += [self._progress(live) for live in lives]
        for live in broken:
            events.append(self._end(live.number, TrialState.FAILED, f"{NOT_FINITE} at step {live.learner.step}"))
        events += self._report([live for live in lives if live.is_due and live not in broken])
        return events + self._save([x for x in self.live.values() if time.monotonic() - x.saved_s > SAVE_EVERY_S])

    def _save(self, lives: Sequence[Live]) -> list[Event]:
        """Write checkpoints; a disk without room is no reason to stop training."""
        for live in lives:
            try:
                save_checkpoint(live)
            except OSError as error:
                return [DiskFull(reason=str(error)) if is_disk_full(error) else Note(text=f"no checkpoint: {error}")]
        return []

    def _pause(self) -> list[Event]:
        events = self._save(list(self.live.values()))
        for live in list(self.live.values()):
            self._free(live)
        return events

    def _probe(self) -> list[Event]:
        """Measure one pass over the longest rows when a bank is new: the first lesson for predictions."""
        assert self.bank is not None
        if self.is_probed:
            return []
        live = max(self.live.values(), key=lambda live: live.appetite)
        self.is_probed = True
        try:
            probe(self.bank, live.learner, self.tasks[live.spec.data_key].train)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            live.learner.rewind()  # what fits is found out by the steps themselves
            return []
        return [Measured(number=live.number, peak_bytes=self.meter.peak_bytes())]

    def _progress(self, live: Live) -> Progress:
        x = live.learner
        pace = x.step / x.train_s if x.train_s else 0.0
        return Progress(number=live.number, step=x.step, num_steps=x.num_steps, loss=mean_loss(x), its_per_s=pace)

    def _report(self, lives: list[Live]) -> list[Event]:
        """Evaluate trials at a rung together: the objective on the way, everything at the end."""
        assert self.bank is not None
        events: list[Event] = []
        order = self.bank.slots
        lives = sorted(lives, key=lambda x: order.index(x.learner.slot))
        for spec in dict.fromkeys(repr((x.spec.eval, x.spec.data_key, x.learner.is_done)) for x in lives):
            same = [x for x in lives if repr((x.spec.eval, x.spec.data_key, x.learner.is_done)) == spec]
            same = [x for x in same if self.live.get(x.number) is x]  # an earlier group may have cost them their slots
            act = partial(self._finish if same and same[0].learner.is_done else self._rung, same)
            events += self._guarded([x.number for x in same], act) if same else []
        return events

    def _rung(self, lives: list[Live]) -> list[Event]:
        data, evaluation = lives[0].spec.data_key, lives[0].spec.eval
        events: list[Event] = []
        scored = rung_metrics(self._asked(lives, evaluation), self.tasks[data], evaluation)
        for live, metrics in zip(lives, scored, strict=True):
            live.reach(metrics, self.meter.peak_bytes())
            events.append(_report_of(live))
        return events + self._save(lives)

    def _finish(self, lives: list[Live]) -> list[Event]:
        """Measure finished trials in full, keep their adapters and free their slots."""
        spec = lives[0].spec
        asked = self._asked(lives, spec.eval)
        results = finish(asked, lives, self.tasks[spec.data_key], self.probes[repr(spec.eval)], self.meter.peak_bytes())
        for live in lives:
            self._free(live)
        attempts = [live.start.attempt for live in lives]
        return [Finished(number=r.number, attempt=n, result=r) for r, n in zip(results, attempts, strict=True)]

    def _stop(self, command: Stop) -> list[Event]:
        if command.number not in self.live:
            return []
        event = self._end(command.number, TrialState.PRUNED, command.reason)
        return [replace(event, result=replace(event.result, stopped_by=command.rule))]

    def _end(self, number: int, state: TrialState, reason: str) -> Finished:
        """End a live trial early, with what is known of it."""
        live = self.live[number]
        event = final_event(live, state, reason, self.base, self.meter.peak_bytes())
        self._free(live)
        return event

    def _free(self, live: Live) -> None:
        assert self.bank is not None
        self.bank.remove(live.learner.slot)
        del self.live[live.number]
        if not self.live:
            self.meter.reset()

    def _score(self, command: Score) -> dict[str, float]:
        """Score a kept adapter on the test split."""
        self._prepare(command.spec)
        assert self.bank is not None
        slot = self.bank.add(command.number, command.spec.lora, command.spec.train.seed)
        try:
            self.bank.load(slot, load_adapter(Path(command.adapter)))
            return test_metrics(
                Asked(self.bank.base, self.bank, (slot,), command.spec.eval.batch_rows),
                self.tasks[command.spec.data_key],
                command.spec.eval,
            )
        finally:
            self.bank.remove(slot)

    def _asked(self, lives: Sequence[Live], evaluation: EvalSpec) -> Asked:
        assert self.bank is not None
        return Asked(self.bank.base, self.bank, tuple(x.learner.slot for x in lives), evaluation.batch_rows)

    def _guarded(self, numbers: list[int], act: Callable[[], list[Event]], start: Start | None = None) -> list[Event]:
        """Run `act`; what it raises ends the trials that it was about."""
        try:
            return act()
        except LoraSweepError as error:
            return self._drop(numbers, start, TrialState.FAILED, str(error))
        except Exception as error:  # the one place: a trial's crash must not take the sweep with it
            if is_disk_full(error):
                return [DiskFull(reason=str(error))]
            if is_out_of_memory(error):
                return self._out_of_memory(start, error)
            log.debug("trial crashed", exc_info=error)
            return self._drop(numbers, start, TrialState.FAILED, traceback.format_exc())

    def _drop(self, numbers: list[int], start: Start | None, state: TrialState, reason: str) -> list[Event]:
        reason = redact(reason)  # an error may tell the request it failed with
        known: list[Event] = [self._end(number, state, reason) for number in numbers if number in self.live]
        return known or ([failed(start, state, reason)] if start else [])

    def _out_of_memory(self, start: Start | None, error: BaseException) -> list[Event]:
        """A trial that does not fit alone is infeasible; beside others, the hungriest waits for more room.

        Smaller passes and sparing activations were tried before. The others stand where they were before the step.
        """
        reason = f"out of memory: {str(error).splitlines()[0] if str(error) else 'the device is full'}"
        if start is not None and self.live:
            return [Evicted(number=start.number, reason=reason, attempt=start.attempt)]
        if start is not None:
            return [failed(start, TrialState.INFEASIBLE, reason)]
        hungriest = max(self.live.values(), key=lambda live: live.appetite)
        if len(self.live) == 1:
            return [self._end(hungriest.number, TrialState.INFEASIBLE, reason)]
        events = self._save([hungriest])
        self._free(hungriest)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return [*events, Evicted(number=hungriest.number, reason=reason, attempt=hungriest.start.attempt)]


def _report_of(live: Live) -> Rung:
    """Return what a trial has to say of the last rung that it reached."""
    value = live.metrics[live.spec.eval.objective]
    return Rung(number=live.number, rung=live.rung, value=value, point=live.history[-1], attempt=live.start.attempt)


def _broken(lives: Sequence[Live]) -> list[Live]:
    """Return the trials whose last loss is no number."""
    return [x for x in lives if x.learner.losses and not math.isfinite(x.learner.losses[-1][1])]
