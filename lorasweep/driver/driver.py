"""The driver: one loop that gives trials to workers and handles their events.

A free slot gets the next trial at once, and every result is in the ledger before the study or the tracker gets it.
"""

import logging
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, wait

from lorasweep.core.errors import is_device_error, is_disk_full
from lorasweep.core.messages import (
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
    SweepEnded,
    TrialStarted,
)
from lorasweep.core.result import TrialResult, TrialState
from lorasweep.core.trial import Trial
from lorasweep.driver.failures import is_device_failure, last_line, no_device_works, same_failure_everywhere
from lorasweep.driver.memory_budget import MemoryBudget
from lorasweep.driver.recorder import Recorder
from lorasweep.driver.scheduler import Scheduler
from lorasweep.driver.worker_handle import WorkerHandle
from lorasweep.executors.base import WorkerDied
from lorasweep.planning.plan import Plan

log = logging.getLogger(__name__)

LAST_SLICE_S = 60.0  # maximum time for workers to end their time slice when the sweep stops
TICK_S = 1.0  # maximum time between checks of the clock and the disk


class Driver:
    """Runs a plan until it is finished or stopped."""

    def __init__(self, plan: Plan, recorder: Recorder, handles: list[WorkerHandle]) -> None:
        self.plan, self.recorder, self.handles = plan, recorder, handles
        self.study, self.ledger = recorder.study, recorder.ledger
        self.budget = MemoryBudget(plan, recorder.show)
        self.scheduler = Scheduler(plan, self.study, self.budget, self.ledger.results)
        self.test_metrics: dict[str, float] = {}
        self.halted = ""  # why the sweep halted itself
        self.is_stopping = False

    def run(self) -> None:
        """Run until there is nothing left to do; `stop` ends it after the current time slice."""
        try:
            self.recorder.begin(self.plan.max_trials)
            for trial in self.scheduler.resumed(self.ledger.attempt):
                self._record(self.scheduler.place(trial))
            while self._is_running and self._fill():
                self._wait()
            self._drain()
            if self._is_running:
                self._score_winner()
        finally:
            self.recorder.emit(SweepEnded())
            for handle in self.handles:
                handle.executor.close()

    def stop(self) -> None:
        """Start no more trials; live trials are saved at the end of their time slice."""
        self.is_stopping = True

    @property
    def is_finished(self) -> bool:
        """Return whether the sweep is complete: neither stopped nor halted, and no trial waits for a worker."""
        return self._is_running and not self.scheduler.has_waiting and bool(self.handles)

    @property
    def _is_running(self) -> bool:
        return not self.is_stopping and not self.halted

    def _fill(self) -> bool:
        """Give every free slot a trial; return whether there is anything to wait for."""
        if not self.recorder.disk.has_space():
            return True
        self.recorder.flush()
        pausing = [handle for handle in self.handles if not handle.is_ready]
        for handle in [h for h in self.handles if h.answer is None and h not in pausing]:
            self._fill_slots(handle)
            if handle.live or handle.pending:
                self._submit(handle)
        # A pause may have ended since then, and another may have started.
        is_pausing = (bool(pausing) or any(not h.is_ready for h in self.handles)) and self.scheduler.has_more
        has_answers = any(handle.answer for handle in self.handles)
        return is_pausing or has_answers or self.recorder.disk.is_paused or self.budget.is_waiting

    def _fill_slots(self, handle: WorkerHandle) -> None:
        while handle.num_free and self._is_running:
            found = self._next(handle)
            if found is None:
                return
            if isinstance(found, TrialResult):
                self._record(found)
            elif self.budget.is_full(handle, found):
                self.scheduler.requeue(found, first=True)
                if self.budget.gives_up(handle):
                    self.handles.remove(handle)
                    handle.executor.close()
                return
            else:
                self._start(handle, found)

    def _next(self, handle: WorkerHandle) -> Trial | TrialResult | None:
        try:
            return self.scheduler.next(handle, self.handles)
        except Exception as error:  # every storage raises its own types
            if not is_disk_full(error):
                raise
            self.recorder.disk.pause("the study cannot be written")
            return None

    def _start(self, handle: WorkerHandle, trial: Trial) -> None:
        handle.base = trial.spec.base_key
        handle.live[trial.number] = trial
        handle.pending.append(Start(trial=trial, folder=str(self.ledger.trial_folder(trial.number))))
        self.recorder.emit(TrialStarted(trial=trial))

    def _submit(self, handle: WorkerHandle) -> None:
        """Send the pending commands, and predict the memory of all live trials together."""
        commands, handle.pending = handle.pending, []
        if num_new := sum(isinstance(command, Start) for command in commands):
            self.budget.expect(handle, num_new)
        try:
            handle.submit(commands)
        except Exception as error:
            self._worker_raised(handle, error)

    def _wait(self) -> None:
        """Wait for workers' events and handle them; check for hung workers."""
        answers = {handle.answer: handle for handle in self.handles if handle.answer is not None}
        if not answers:
            time.sleep(TICK_S / 5)
        done, _ = wait(answers, timeout=TICK_S, return_when=FIRST_COMPLETED)
        for future in done:
            self._take_answer(answers[future])
        for handle in self.handles:
            if hung_s := handle.hung_s(60 * self.plan.config.study.hang_min):
                self._worker_failed(handle, f"did not respond for {hung_s:.0f} s")

    def _take_answer(self, handle: WorkerHandle) -> None:
        try:
            events = handle.result()
        except Exception as error:
            self._worker_raised(handle, error)
            return
        self._handle_all(handle, events)

    def _handle_all(self, handle: WorkerHandle, events: Sequence[Event]) -> None:
        """Handle a worker's events. All reports of a rung come before pruning, so that trials are compared fairly."""
        current = [event for event in events if handle.is_current(event)]
        broken = [event.result.reason for event in current if is_device_failure(event)]
        for event in (e for e in current if not is_device_failure(e)):
            self._handle(handle, event)
        self._prune([event for event in current if isinstance(event, Rung) and event.number in handle.live])
        if broken:
            self._worker_failed(handle, f"failed: {last_line(broken[0])}")
        if handle.live and not events and self._is_running:
            for trial in list(handle.live.values()):
                self._finish(handle, TrialResult.of(trial, TrialState.FAILED, "its worker lost the trial"))

    def _prune(self, rungs: Sequence[Rung]) -> None:
        workers = {number: handle for handle in self.handles for number in handle.live}
        for stop in self.study.prune(rungs, workers):
            workers[stop.number].pending.append(stop)

    def _handle(self, handle: WorkerHandle, event: Event) -> None:
        match event:
            case Progress():
                self.recorder.emit(event)
            case Rung():
                self.recorder.rung(event)
                self._device_works(handle)
            case Finished():
                self._finish(handle, self.budget.settle(handle, event.result))
            case Measured():
                self.budget.learn_warmup(handle, event)
            case Evicted():
                self._evict(handle, event)
            case Scored():
                self.test_metrics = event.metrics
            case Note():
                self.recorder.note(event.text)
            case DiskFull():
                self.recorder.disk.pause(event.reason)

    def _evict(self, handle: WorkerHandle, event: Evicted) -> None:
        """Queue the trial again and use fewer slots from now on: the device has less memory than predicted."""
        self.scheduler.requeue(handle.live.pop(event.number))
        handle.num_slots = max(1, len(handle.live))
        slots = f"continuing with {handle.num_slots} slots on {handle.device}"
        self.recorder.show(f"trial {event.number}: {event.reason}; {slots}")

    def _finish(self, handle: WorkerHandle, result: TrialResult) -> None:
        """Record a trial's result; halt if trials fail for the same reason on all devices that work."""
        del handle.live[result.number]
        self._record(result)
        if result.state in (TrialState.COMPLETE, TrialState.PRUNED):
            self._device_works(handle)
        handle.count_errors(result)
        most = self.plan.config.study.halt_after
        working = [h for h in self.handles if h is handle or not h.is_unreliable]
        self.halted = self.halted or same_failure_everywhere(working, most)
        if not self.halted and len(working) > 1 and handle.last_error and handle.num_same_errors >= most:
            self._retry_elsewhere(handle, f"failed all of its last trials: {handle.last_error}")

    def _record(self, result: TrialResult | None) -> None:
        """Record a result, and the results of trials that waited for it."""
        if result is not None:
            self.recorder.finish(result)
            for duplicate in self.scheduler.queue.close(result):
                self.recorder.finish(duplicate)

    def _device_works(self, handle: WorkerHandle) -> None:
        for result in self.scheduler.device_works(handle):
            self._record(result)

    def _worker_raised(self, handle: WorkerHandle, error: Exception) -> None:
        if isinstance(error, WorkerDied):
            self._worker_failed(handle, error.reason, is_from_outside=error.is_from_outside)
        elif is_device_error(str(error)):
            self._worker_failed(handle, f"failed: {last_line(str(error))}")
        else:
            raise error

    def _worker_failed(self, handle: WorkerHandle, reason: str, *, is_from_outside: bool = False) -> None:
        if self._is_running:
            self._retry_elsewhere(handle, reason, is_from_outside=is_from_outside)
        else:
            handle.fail(reason)

    def _retry_elsewhere(self, handle: WorkerHandle, reason: str, *, is_from_outside: bool = False) -> None:
        """Close a worker; its trials continue from their checkpoints, on another device if one works."""
        pause_s = handle.pause_s
        trials = handle.fail(reason, is_from_outside=is_from_outside)
        where = "in a new one" if len(self.handles) == 1 else "in another"
        self.recorder.show(f"the worker on {handle.device} {reason}; its {len(trials)} trials continue {where}")
        if handle.is_unreliable:
            self.recorder.show(
                f"{handle.device} failed {len(handle.failures)} times in a row: no trial for {pause_s:.0f} s, "
                "then one at a time until one reaches a rung"
            )
        why = f"the worker process on {handle.device} {reason}"
        for trial in trials:
            self.recorder.failed_attempt(trial, why)
            self._record(self.scheduler.retry(trial, self.handles, why))
        self.halted = self.halted or no_device_works(self.handles, self.plan.config.study.halt_after)

    def _drain(self) -> None:
        """Let workers end their time slice and save their live trials."""
        end_s = time.monotonic() + LAST_SLICE_S
        self._wait_until(end_s)
        for handle in (h for h in self.handles if h.live and h.answer is None and not h.is_closed):
            stops = [command for command in handle.pending if isinstance(command, Stop)]
            handle.pending = [*stops, Pause()]
            self._submit(handle)
        self._wait_until(end_s)

    def _wait_until(self, end_s: float) -> None:
        for handle in [h for h in self.handles if h.answer is not None]:
            assert handle.answer is not None
            done, _ = wait([handle.answer], timeout=max(0.0, end_s - time.monotonic()))
            if done:
                self._take_answer(handle)

    def _score_winner(self) -> None:
        """Score the winner on the test split, once; ranking never uses the test split."""
        best = self.recorder.winner()
        if best is None or not self.plan.facts[best.result.spec.data_key].num_test or not self.handles:
            return
        winner = best.result
        noted = self.ledger.noted("test")
        if noted.get("trial") == winner.number:
            self.test_metrics = noted.get("metrics", {})
            return
        handle = min(self.handles, key=lambda handle: len(handle.failures))  # the most reliable device
        self.recorder.show(f"scoring trial {winner.number} on the test split")
        adapter = str(self.ledger.adapter_folder(winner.number))
        try:
            handle.submit([Score(trial=winner.trial, adapter=adapter)])
            self._handle_all(handle, handle.result())
        except Exception as error:  # whatever is raised, the leaderboard must still be written
            log.warning("the winner could not be scored on the test split: %s", error)
            return
        self.ledger.note("test", {"trial": winner.number, "metrics": self.test_metrics})
