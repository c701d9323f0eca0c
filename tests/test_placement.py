"""Whole sweeps on simulated devices: placement of trials on one, two and eight unequal devices."""

import json
from pathlib import Path
from typing import Any

import pytest

from lorasweep import run
from lorasweep.cli import main
from lorasweep.core.messages import WorkerSettings
from lorasweep.devices import nvml
from lorasweep.devices.devices import Device
from lorasweep.driver import driver
from lorasweep.driver.worker_handle import WorkerHandle
from lorasweep.executors.table import EXECUTORS
from lorasweep.planning.plan import Plan
from lorasweep.planning.slots import shared_out
from tests.fake_nvml import FakeGpu, FakeNvml
from tests.simulated import Death, SimulatedExecutor

pytestmark = pytest.mark.slow

SWEEP = (
    "data.train=demo:intents/train.csv[:40]", "data.validation=demo:intents/validation.csv[:12]", "data.test=null",
    "probes=none", "eval.num_samples=0", "eval.metrics=[]", "tracking=none", "study.sampler=grid", "train.max_steps=6",
    "train.per_device_train_batch_size=32",
)  # fmt: skip
SIXTEEN = ("train.learning_rate=1e-3,2e-3,3e-3,4e-3", "lora.r=1,2,3,4")
TWO_BASES = ("model.precision=none,nf4",)


class Machine:
    """Simulated devices with one executor each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *gpus: FakeGpu) -> None:
        self.gpus = gpus
        self.speeds: dict[str, int] = {}
        self.truth = 1.0
        self.deaths: dict[str, Death] = {}
        self.executors: dict[str, SimulatedExecutor] = {}
        monkeypatch.setenv("LORASWEEP_CACHE", str(Path("cache").absolute()))  # without corrections from other tests
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setattr(nvml, "library", lambda: FakeNvml(*gpus))
        self._make_handle = run._make_handle
        monkeypatch.setattr(run, "_make_handle", self._handle)
        monkeypatch.setitem(EXECUTORS, "local", self._executor)
        monkeypatch.setattr(driver, "TICK_S", 0.0)

    def _handle(self, plan: Plan, device: Device, threads: int) -> WorkerHandle:
        self.plan = plan
        return self._make_handle(plan, device, threads)

    def _executor(self, settings: WorkerSettings, device: Device) -> SimulatedExecutor:
        gpu = next(g for g in self.gpus if g.uuid == settings.visible)
        speed, death = self.speeds.get(gpu.uuid, 1), self.deaths.get(gpu.uuid)
        executor = SimulatedExecutor(self.plan, gpu, device, speed=speed, truth=self.truth, death=death)
        self.executors[gpu.uuid] = executor
        return executor

    @property
    def bases(self) -> list[list[str]]:
        return [executor.bases for executor in self.executors.values()]

    @property
    def most_live(self) -> list[int]:
        return [executor.most_live for executor in self.executors.values()]

    @property
    def num_evicted(self) -> int:
        return sum(executor.num_evicted for executor in self.executors.values())


def swept(*arguments: str) -> list[dict[str, Any]]:
    """Run a sweep and return its trials."""
    assert main([*SWEEP, *arguments]) == 0
    (file,) = Path().glob("runs/*/leaderboard.json")
    trials: list[dict[str, Any]] = json.loads(file.read_text())["trials"]
    return trials


def gpu(number: int, gib: float) -> FakeGpu:
    return FakeGpu(f"GPU-{number}", gib)


def test_one_small_gpu_takes_a_few_at_a_time_and_all_in_the_end(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, gpu(0, 0.8))
    assert {t["state"] for t in swept(*SIXTEEN)} == {"complete"}
    assert 1 < machine.most_live[0] < 16 and machine.num_evicted == 0


def test_unequal_gpus_get_different_numbers_of_slots(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, gpu(0, 0.75), gpu(1, 24))
    assert len(swept(*SIXTEEN)) == 16
    small, large = machine.most_live
    assert 0 < small < large and machine.num_evicted == 0


def test_two_bases_are_loaded_once_each_on_two_gpus(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, gpu(0, 24), gpu(1, 24))
    assert len(swept(*SIXTEEN, *TWO_BASES)) == 32
    assert sorted(len(bases) for bases in machine.bases) == [1, 1]
    assert machine.bases[0] != machine.bases[1]


def test_two_bases_on_one_gpu_take_one_change(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, gpu(0, 24))
    swept(*SIXTEEN, *TWO_BASES)
    assert len(machine.bases[0]) == 2


def test_eight_unequal_gpus_all_work_and_none_is_overfilled(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = (0.75, 0.8, 1, 1, 2, 8, 24, 80)
    machine = Machine(monkeypatch, *(gpu(i, gib) for i, gib in enumerate(sizes)))
    machine.speeds = {"GPU-7": 6, "GPU-6": 3}
    assert {t["state"] for t in swept(*SIXTEEN, "train.learning_rate=1e-3,2e-3,3e-3,4e-3,5e-3,6e-3", *TWO_BASES)} == {
        "complete"
    }
    assert all(machine.most_live) and machine.num_evicted == 0
    assert max(len(bases) for bases in machine.bases) <= 2


def test_predictions_that_are_too_low_are_corrected_before_a_tight_device_is_full(
    in_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trials need 60 % more than predicted: the peak of the first decides how many others start."""
    machine = Machine(monkeypatch, gpu(0, 1.4))
    machine.truth = 1.6
    trials = swept(*SIXTEEN)
    assert {t["state"] for t in trials} == {"complete"} and machine.num_evicted == 0
    errors = [abs(t["cost"]["memory_error"]) for t in sorted(trials, key=lambda t: int(t["trial"]))]
    assert errors[0] > 0.2 and errors[-1] < 0.15


class Clearing(FakeNvml):
    """A job of another user that ends after a few checks."""

    looks = 0

    def nvmlDeviceGetMemoryInfo(self, gpu: FakeGpu) -> Any:
        self.looks += 1
        if self.looks > 5:
            gpu.used.pop(7, None)
        return super().nvmlDeviceGetMemoryInfo(gpu)


def test_a_full_gpu_is_waited_for(
    in_tmp: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    full = FakeGpu("GPU-0", 24, {7: 23.9})
    machine = Machine(monkeypatch, full)
    clearing = Clearing(full)
    monkeypatch.setattr(nvml, "library", lambda: clearing)
    assert len(swept(*SIXTEEN)) == 16
    assert capsys.readouterr().out.count("waiting up to 30 min (study.device_wait_min)") == 1
    assert machine.num_evicted == 0


def test_a_gpu_that_stays_full_is_left_to_others(
    in_tmp: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = Machine(monkeypatch, FakeGpu("GPU-0", 24, {7: 23.9}), gpu(1, 24))
    assert len(swept(*SIXTEEN, "study.device_wait_min=0")) == 16
    assert "GPU 0 is still full; continuing without it" in capsys.readouterr().out
    assert machine.executors["GPU-0"].bases == []


def test_a_sweep_gives_up_slots_when_other_processes_need_memory(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, gpu(0, 1.2))
    start = SimulatedExecutor._start

    def filled_by_others(self: SimulatedExecutor, command: Any) -> Any:
        self.gpu.used.setdefault(7, 0.25)  # another process starts just after this sweep
        return start(self, command)

    monkeypatch.setattr(SimulatedExecutor, "_start", filled_by_others)
    assert {t["state"] for t in swept(*SIXTEEN)} == {"complete"}
    assert machine.most_live[0] < 16


@pytest.mark.parametrize(
    ("trials", "fitting", "slots"),
    [
        (10, {"a": 24}, {"a": 10}),
        (10, {"a": 24, "b": 24}, {"a": 5, "b": 5}),
        (10, {"a": 2, "b": 24}, {"a": 2, "b": 8}),
        (30, {"b": 9, "a": 2, "c": 3}, {"b": 9, "a": 2, "c": 3}),
        (1, {"a": 24, "b": 24}, {"a": 1, "b": 1}),
    ],
)
def test_trials_are_dealt_out_by_what_fits(trials: int, fitting: dict[str, int], slots: dict[str, int]) -> None:
    assert shared_out(trials, fitting) == slots
