"""One device, one base, one bank: train and evaluate the trials one is told to.

The driver's whole contract with a worker is `Worker.advance`. An exception becomes a trial's state here and nowhere
else.
"""

import logging
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial

import torch

from lorasweep.adapters.train import train_step
from lorasweep.core.errors import LoraSweepError, is_device_error, is_disk_full, is_out_of_memory
from lorasweep.core.files import redact
from lorasweep.core.result import (
    NOT_FINITE,
    Command,
    DiskFull,
    Event,
    Evicted,
    Pause,
    Rung,
    Score,
    Scored,
    Start,
    TrialState,
    WorkerSettings,
)
from lorasweep.worker.evaluate import failed
from lorasweep.worker.live_trial import Live
from lorasweep.worker.live_trials import LiveTrials

log = logging.getLogger(__name__)

SAVE_EVERY_S = 600.0  # between rungs that lie far apart


class Worker:
    """See `advance`."""

    def __init__(self, settings: WorkerSettings) -> None:
        self.settings = settings
        if settings.num_threads:
            torch.set_num_threads(settings.num_threads)
        self.trials = LiveTrials(settings.device, settings.num_slots)

    @property
    def live(self) -> dict[int, Live]:
        return self.trials.live

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
        # A trial that was taken up at a rung is judged there before it goes on.
        if self.live and not any(isinstance(event, Rung) for event in events):
            events += self._guarded(list(self.live), self._train)
        return events

    def _obey(self, command: Command) -> list[Event]:
        if isinstance(command, Start):
            return self._guarded([command.number], lambda: self.trials.start(command), command)
        if isinstance(command, Score):
            return [Scored(number=command.number, metrics=self.trials.load(command.spec.model).score(command))]
        if isinstance(command, Pause):
            return self.trials.pause()
        return self.trials.stop(command)

    def _train(self) -> list[Event]:
        """Train all live slots until one of them has something to report."""
        lives = list(self.live.values())
        bank = self.trials.loaded.bank
        bank.set_mode(checkpointing=any(x.spec.train.activation_checkpointing for x in lives))
        events: list[Event] = self.trials.probe()
        deadline, num_due = time.perf_counter() + self.settings.slice_s, sum(live.is_due for live in lives)
        for live in lives:
            live.shared_by = max(live.shared_by, len(lives))
        # A trial may be due already: taken up at a rung, or its last report could not be made.
        while not any(live.is_broken or live.is_due for live in lives):
            train_step(bank, [live.learner for live in lives])
            if time.perf_counter() > deadline:
                break
        events += [live.progress() for live in lives]
        for live in (x for x in lives if x.is_broken):
            reason = f"{NOT_FINITE} at step {live.learner.step}"
            events.append(self.trials.end(live.number, TrialState.FAILED, reason))
        due = [live for live in lives if live.is_due and not live.is_broken]
        if len(due) > num_due:  # an evaluation may take long: first the driver learns how far the trials are
            return events
        events += self._report(due)
        late = [x for x in self.live.values() if time.monotonic() - x.saved_s > SAVE_EVERY_S]
        return events + self.trials.save(late)

    def _report(self, lives: Sequence[Live]) -> list[Event]:
        """Evaluate trials at a rung: the objective on the way, everything at the end; together where asked the same."""
        slots = self.trials.loaded.bank.slots
        events: list[Event] = []
        for alike in _grouped(sorted(lives, key=lambda x: slots.index(x.learner.slot))):
            # An earlier group may have cost them their slots.
            still = [x for x in alike if self.live.get(x.number) is x]
            act = self.trials.finish if alike[0].learner.is_done else self.trials.rung
            if still:
                events += self._guarded([x.number for x in still], partial(act, still))
        return events

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
            if is_device_error(str(error)):
                return self._device_failed(start)
            log.debug("trial crashed", exc_info=error)
            return self._drop(numbers, start, TrialState.FAILED, traceback.format_exc())

    def _device_failed(self, start: Start | None) -> list[Event]:
        """Return what ended every trial here. Their tensors are not touched: each further call would raise as well."""
        reason = redact(traceback.format_exc())
        starts = {live.number: live.start for live in self.live.values()} | ({start.number: start} if start else {})
        self.live.clear()
        return [failed(start, TrialState.FAILED, reason) for start in starts.values()]

    def _drop(self, numbers: list[int], start: Start | None, state: TrialState, reason: str) -> list[Event]:
        reason = redact(reason)  # an error may tell the request it failed with
        known: list[Event] = [self.trials.end(number, state, reason) for number in numbers if number in self.live]
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
        hungriest = self.trials.hungriest
        if len(self.live) == 1:
            return [self.trials.end(hungriest.number, TrialState.INFEASIBLE, reason)]
        return self.trials.evict(hungriest, reason)


def _grouped(lives: Sequence[Live]) -> list[list[Live]]:
    """Put trials together that are asked the same questions about the same data."""
    groups: dict[object, list[Live]] = {}
    for live in lives:
        groups.setdefault((live.spec.eval, live.spec.data_key, live.learner.is_done), []).append(live)
    return list(groups.values())
