"""The interface of a worker on a simulated device with memory and speed, without real time."""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from math import inf

from lorasweep.core.messages import Command, Event, Evicted, Finished, Progress, Score, Scored, Start, Stop
from lorasweep.core.result import Cost, TrialResult, TrialState
from lorasweep.core.trial import Trial
from lorasweep.devices.devices import Device, free_bytes
from lorasweep.executors.base import WorkerDied
from lorasweep.memory import footprint
from lorasweep.memory.footprint import OVERHEAD
from lorasweep.planning.plan import Plan
from lorasweep.worker.evaluate import ended
from tests.fake_nvml import GIB, FakeGpu

PID = 4242


@dataclass
class Death:
    """A device that fails with every trial, or with these trials: the worker's process dies, or raises `error`."""

    error: str = ""
    exit_code: int = -6
    numbers: tuple[int, ...] = ()
    most: float = inf  # failures, after which the device works again
    num_failures: int = 0

    def strikes(self, starts: Sequence[Start]) -> bool:
        """Return whether these trials meet it."""
        strikes = self.num_failures < self.most and any(
            not self.numbers or start.number in self.numbers for start in starts
        )
        self.num_failures += strikes
        return strikes


class SimulatedExecutor:
    """Trains as many steps per call as its device is fast. `truth`: real memory as a factor of the prediction."""

    def __init__(
        self,
        plan: Plan,
        gpu: FakeGpu,
        device: Device,
        *,
        speed: int = 1,
        truth: float = 1.0,
        death: Death | None = None,
    ) -> None:
        self.plan, self.gpu, self.device = plan, gpu, device
        self.speed, self.truth, self.death = speed, truth, death
        self.live: dict[int, tuple[Trial, int]] = {}
        self.bases: list[str] = []  # in the order in which they were loaded
        self.most_live = self.num_evicted = 0

    @property
    def pid(self) -> int | None:
        """Return the process id once it uses memory of the device."""
        return PID if PID in self.gpu.used else None

    def submit(self, commands: Sequence[Command]) -> "Future[list[Event]]":
        future: Future[list[Event]] = Future()
        starts = [c for c in commands if isinstance(c, Start)]
        if self.death and self.death.strikes(starts):
            code = self.death.exit_code
            if self.death.error:
                future.set_result([ended(start.trial, TrialState.FAILED, self.death.error) for start in starts])
            else:
                future.set_exception(WorkerDied(lambda: code))
            return future
        future.set_result([e for c in commands for e in self._obey(c)] + self._train())
        return future

    def free_bytes(self) -> float | None:
        return free_bytes(self.device, self.pid)

    def close(self) -> None:
        self.gpu.used.pop(PID, None)

    def need_gib(self) -> float:
        """Return the memory in use."""
        specs = [trial.spec for trial, _ in self.live.values()]
        if not specs:
            return 0.0
        need = footprint(self.plan.info(specs[0].model), self.plan.loads(specs), kind="cuda")
        return need.corrected(self.truth, "cuda").total / GIB

    def _obey(self, command: Command) -> list[Event]:
        if isinstance(command, Score):
            return [Scored(number=command.trial.number, metrics={})]
        if isinstance(command, Stop):
            self.live.pop(command.number)
            return []
        assert isinstance(command, Start)
        return self._start(command.trial)

    def _start(self, trial: Trial) -> list[Event]:
        if self.bases[-1:] != [trial.spec.base_key]:
            assert not self.live, "a base is changed only when no trial is live"
            self.bases.append(trial.spec.base_key)
        self.live[trial.number] = (trial, 0)
        others = sum(gib for pid, gib in self.gpu.used.items() if pid != PID)
        if self.need_gib() + others > self.gpu.gib:
            assert len(self.live) > 1, "a trial was started where it cannot fit"
            del self.live[trial.number]
            self.num_evicted += 1
            return [Evicted(number=trial.number, reason="out of memory", attempt=trial.attempt)]
        self.gpu.used[PID] = self.need_gib()
        self.most_live = max(self.most_live, len(self.live))
        return []

    def _train(self) -> list[Event]:
        events: list[Event] = []
        peak = round(self.need_gib() * GIB) - OVERHEAD["cuda"]  # PyTorch counts tensors only
        for number, (trial, step) in list(self.live.items()):
            goal = trial.spec.train.max_steps
            self.live[number] = (trial, step + self.speed)
            events.append(Progress(number=number, step=step, num_steps=goal, loss=1.0, its_per_s=1.0))
            if step + self.speed >= goal:
                events.append(Finished(number=number, attempt=trial.attempt, result=self._result(trial, peak)))
                del self.live[number]
        return events

    def _result(self, trial: Trial, peak_bytes: int) -> TrialResult:
        cost = Cost(peak_bytes=peak_bytes, shared_by=self.most_live, trainable_parameters=1)
        result = TrialResult.of(trial, TrialState.COMPLETE)
        return replace(result, objective=0.5, metrics={"accuracy": 0.5}, scores=(1.0, 0.0), cost=cost)
