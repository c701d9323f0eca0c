"""One device, one base, one bank: train and evaluate the trials that the driver sends.

The driver calls a worker only through `Worker.advance`. Only this module turns an exception into a trial's state.
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
from lorasweep.core.messages import Command, DiskFull, Event, Evicted, Pause, Rung, Score, Scored, Start, WorkerSettings
from lorasweep.core.result import NOT_FINITE, TrialState
from lorasweep.core.trial import Trial
from lorasweep.worker.evaluate import ended
from lorasweep.worker.live_trial import LiveTrial
from lorasweep.worker.live_trials import LiveTrials

log = logging.getLogger(__name__)

SAVE_EVERY_S = 600.0  # between checkpoints if rungs are rare


class Worker:
    """Trains and evaluates trials on one device. See `advance`."""

    def __init__(self, settings: WorkerSettings) -> None:
        self.settings = settings
        if settings.num_threads:
            torch.set_num_threads(settings.num_threads)
        self.trials = LiveTrials(settings.device, settings.num_slots)

    @property
    def live(self) -> dict[int, LiveTrial]:
        return self.trials.live

    def advance(self, commands: Sequence[Command]) -> list[Event]:
        """Start and stop trials, train every live slot until one reaches a rung or the time slice ends, evaluate.

        Args:
            commands: to execute first, in order.

        Returns:
            Events: progress of live trials, rungs with the objective, finished trials.
        """
        events: list[Event] = []
        for command in commands:
            events += self._execute(command)
        # A trial that restarts at a rung may be pruned there before it continues.
        if self.live and not any(isinstance(event, Rung) for event in events):
            events += self._guarded(list(self.live), self._train)
        return events

    def _execute(self, command: Command) -> list[Event]:
        if isinstance(command, Start):
            return self._guarded([command.number], lambda: self.trials.start(command), command.trial)
        if isinstance(command, Score):
            session = self.trials.load(command.trial.spec.model)
            return [Scored(number=command.trial.number, metrics=session.score(command))]
        if isinstance(command, Pause):
            return self.trials.pause()
        return self.trials.stop(command)

    def _train(self) -> list[Event]:
        """Train all live slots until one reaches a rung or diverges, or the time slice ends."""
        lives = list(self.live.values())
        bank = self.trials.session.bank
        bank.set_mode(checkpointing=any(x.spec.train.activation_checkpointing for x in lives))
        events: list[Event] = self.trials.warm_up()
        deadline, num_due = time.perf_counter() + self.settings.slice_s, sum(live.is_due for live in lives)
        for live in lives:
            live.shared_by = max(live.shared_by, len(lives))
        # A trial may be due already: its checkpoint was saved at a rung, or its last report failed.
        while not any(live.has_diverged or live.is_due for live in lives):
            train_step(bank, [live.train_state for live in lives])
            if time.perf_counter() > deadline:
                break
        events += [live.progress() for live in lives]
        for live in (x for x in lives if x.has_diverged):
            reason = f"{NOT_FINITE} at step {live.train_state.step}"
            events.append(self.trials.end(live.number, TrialState.FAILED, reason))
        due = [live for live in lives if live.is_due and not live.has_diverged]
        if len(due) > num_due:  # evaluation may take long: report progress to the driver first
            return events
        events += self._report(due)
        late = [x for x in self.live.values() if time.monotonic() - x.saved_s > SAVE_EVERY_S]
        return events + self.trials.save(late)

    def _report(self, lives: Sequence[LiveTrial]) -> list[Event]:
        """Evaluate trials at a rung: before the last step only the objective. Trials with equal data share passes."""
        slots = self.trials.session.bank.slots
        events: list[Event] = []
        for alike in _grouped(sorted(lives, key=lambda x: slots.index(x.train_state.slot))):
            # Out-of-memory in an earlier group may have removed trials from their slots.
            still = [x for x in alike if self.live.get(x.number) is x]
            act = self.trials.finish if alike[0].train_state.is_done else self.trials.evaluate_rung
            if still:
                events += self._guarded([x.number for x in still], partial(act, still))
        return events

    def _guarded(self, numbers: list[int], act: Callable[[], list[Event]], new: Trial | None = None) -> list[Event]:
        """Run `act`; an exception ends the trials with these numbers."""
        try:
            return act()
        except LoraSweepError as error:
            return self._drop(numbers, new, TrialState.FAILED, str(error))
        except Exception as error:  # the crash of a trial must not end the sweep
            if is_disk_full(error):
                return [DiskFull(reason=str(error))]
            if is_out_of_memory(error):
                return self._out_of_memory(new, error)
            if is_device_error(str(error)):
                return self._device_failed(new)
            log.debug("trial crashed", exc_info=error)
            return self._drop(numbers, new, TrialState.FAILED, traceback.format_exc())

    def _device_failed(self, new: Trial | None) -> list[Event]:
        """End every live trial without touching its tensors: every further call to the device would raise as well."""
        reason = redact(traceback.format_exc())
        trials = {live.number: live.trial for live in self.live.values()}
        trials |= {new.number: new} if new else {}
        self.live.clear()
        return [ended(trial, TrialState.FAILED, reason) for trial in trials.values()]

    def _drop(self, numbers: list[int], new: Trial | None, state: TrialState, reason: str) -> list[Event]:
        reason = redact(reason)  # an error message may contain a request with its token
        known: list[Event] = [self.trials.end(number, state, reason) for number in numbers if number in self.live]
        return known or ([ended(new, state, reason)] if new else [])

    def _out_of_memory(self, new: Trial | None, error: BaseException) -> list[Event]:
        """End a trial that does not fit alone as infeasible; among several, evict the largest.

        Smaller passes and recomputed activations were tried before. The other trials are unchanged by the failed step.
        """
        reason = f"out of memory: {str(error).splitlines()[0] if str(error) else 'the device is full'}"
        if new is not None and self.live:
            return [Evicted(number=new.number, reason=reason, attempt=new.attempt)]
        if new is not None:
            return [ended(new, TrialState.INFEASIBLE, reason)]
        largest = self.trials.largest
        if len(self.live) == 1:
            return [self.trials.end(largest.number, TrialState.INFEASIBLE, reason)]
        return self.trials.evict(largest, reason)


def _grouped(lives: Sequence[LiveTrial]) -> list[list[LiveTrial]]:
    """Group trials that share evaluation settings and data, and are all done or all not done."""
    groups: dict[object, list[LiveTrial]] = {}
    for live in lives:
        groups.setdefault((live.spec.eval, live.spec.data_key, live.train_state.is_done), []).append(live)
    return list(groups.values())
