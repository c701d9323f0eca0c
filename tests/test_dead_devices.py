"""Devices that fail during a sweep, and trials that kill every worker: retries on other devices, and halts."""

import json
from pathlib import Path
from typing import Any

import pytest

from lorasweep.cli import main
from lorasweep.core.errors import is_device_error
from lorasweep.driver import worker_handle
from lorasweep.driver.scheduler import MAX_ATTEMPTS
from lorasweep.executors.base import WorkerDied
from tests.simulated import Death
from tests.test_placement import SIXTEEN, SWEEP, Machine, gpu, swept

pytestmark = pytest.mark.slow

ILLEGAL = (
    "Traceback (most recent call last):\n  here\nRuntimeError: CUDA error: an illegal memory access was encountered"
)
DEATHS = {"its process dies": Death(), "every CUDA call raises": Death(error=ILLEGAL)}


@pytest.fixture
def in_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make all pauses short."""
    monkeypatch.setattr(worker_handle, "MAX_PAUSE_S", 0.01)


def dead(way: str) -> Death:
    return Death(error=DEATHS[way].error)


def found(folder: Path) -> dict[int, dict[str, Any]]:
    files = folder.glob("runs/*/trials/*/result.json")
    return {r["number"]: r for r in (json.loads(file.read_text()) for file in files)}


@pytest.mark.parametrize("sizes", [(24, 24), (24, 24, 24, 80, 2, 2, 8, 8)], ids=["two GPUs", "eight GPUs"])
@pytest.mark.parametrize("way", DEATHS)
@pytest.mark.parametrize("pause_s", [0.01, 1800.0], ids=["probed often", "probed once"])
def test_a_dead_gpu_costs_no_trial(
    way: str, sizes: tuple[int, ...], pause_s: float, in_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch, *(gpu(i, gib) for i, gib in enumerate(sizes)))
    monkeypatch.setattr(worker_handle, "MAX_PAUSE_S", pause_s)
    machine.deaths["GPU-1"] = dead(way)
    trials = swept(*SIXTEEN, "train.learning_rate=1e-3,2e-3,3e-3,4e-3,5e-3,6e-3,7e-3,8e-3,9e-3,1e-2", "study.slots=3")
    assert [t["state"] for t in trials] == ["complete"] * 40
    assert machine.deaths["GPU-1"].num_failures >= 1


def test_a_pause_that_ends_while_the_driver_looks_round_does_not_end_the_sweep(
    in_tmp: Path, monkeypatch: pytest.MonkeyPatch, in_no_time: None
) -> None:
    asked: set[float] = set()

    def is_ready(self: worker_handle.WorkerHandle) -> bool:
        """Return False at the first check after a failure, and True later."""
        is_first = self.ready_s > 0 and self.ready_s not in asked
        asked.add(self.ready_s)
        return not is_first

    monkeypatch.setattr(worker_handle.WorkerHandle, "is_ready", property(is_ready))
    machine = Machine(monkeypatch, gpu(0, 24))
    machine.deaths["GPU-0"] = Death(error=ILLEGAL, most=3)
    assert {t["state"] for t in swept(*SIXTEEN, "study.slots=4")} == {"complete"}


@pytest.mark.parametrize("way", DEATHS)
def test_a_gpu_that_failed_twice_gets_one_trial_at_a_time_and_is_trusted_again_once_it_works(
    way: str, in_tmp: Path, monkeypatch: pytest.MonkeyPatch, in_no_time: None, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = Machine(monkeypatch, gpu(0, 24))
    machine.deaths["GPU-0"] = Death(error=DEATHS[way].error, most=3)
    assert {t["state"] for t in swept(*SIXTEEN, "study.slots=4")} == {"complete"}
    assert "0 failed 2 times in a row: no trial for" in capsys.readouterr().out
    assert machine.most_live[0] > 1


@pytest.mark.parametrize("way", DEATHS)
def test_the_only_gpu_is_dead_so_the_sweep_halts_and_no_trial_has_failed(
    way: str, in_tmp: Path, monkeypatch: pytest.MonkeyPatch, in_no_time: None, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = Machine(monkeypatch, gpu(0, 24))
    machine.deaths["GPU-0"] = dead(way)
    assert main([*SWEEP, *SIXTEEN]) == 1
    assert "sweep halted: no device works any more (0 5 times" in capsys.readouterr().err
    assert found(in_tmp) == {}
    machine.deaths.clear()
    assert {t["state"] for t in swept(*SIXTEEN)} == {"complete"}


def test_two_dead_gpus_halt_the_sweep_together(
    in_tmp: Path, monkeypatch: pytest.MonkeyPatch, in_no_time: None, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = Machine(monkeypatch, gpu(0, 24), gpu(1, 24))
    machine.deaths = {"GPU-0": Death(), "GPU-1": Death(error=ILLEGAL)}
    assert main([*SWEEP, *SIXTEEN]) == 1
    assert "an illegal memory access" in capsys.readouterr().err
    assert found(in_tmp) == {}


@pytest.mark.parametrize("way", DEATHS)
@pytest.mark.parametrize("slots", [1, 4])
@pytest.mark.parametrize("num_gpus", [1, 2])
def test_a_trial_that_ends_every_worker_fails_and_no_other_does(
    way: str, slots: int, num_gpus: int, in_tmp: Path, monkeypatch: pytest.MonkeyPatch, in_no_time: None
) -> None:
    machine = Machine(monkeypatch, *(gpu(i, 24) for i in range(num_gpus)))
    machine.deaths = {g.uuid: Death(error=DEATHS[way].error, numbers=(5,)) for g in machine.gpus}
    swept(*SIXTEEN, f"study.slots={slots}")
    states = {number: r["state"] for number, r in found(in_tmp).items()}
    assert states.pop(5) == "failed" and set(states.values()) == {"complete"} and len(states) == 15
    assert "as it did 2 times before" in found(in_tmp)[5]["reason"]


def test_a_kill_from_outside_uses_up_no_try_but_a_trial_is_not_started_for_ever(
    in_tmp: Path, monkeypatch: pytest.MonkeyPatch, in_no_time: None
) -> None:
    machine = Machine(monkeypatch, gpu(0, 24))
    machine.deaths["GPU-0"] = death = Death(exit_code=-9, numbers=(5,))
    swept(*SIXTEEN, "study.slots=2")
    assert death.num_failures == MAX_ATTEMPTS
    assert [n for n, r in found(in_tmp).items() if r["state"] != "complete"] == [5]
    assert "was killed from outside (signal 9" in found(in_tmp)[5]["reason"]


def test_trials_that_fail_for_one_reason_on_one_of_two_gpus_halt_nothing(
    in_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch, gpu(0, 24), gpu(1, 24))
    machine.deaths["GPU-1"] = Death(error="OSError: libbitsandbytes.so: cannot open shared object file")
    swept(*SIXTEEN, "study.slots=1")
    states = [r["state"] for r in found(in_tmp).values()]
    assert len(states) == 16 and 0 < states.count("failed") < 10


def test_failed_trials_run_again_when_they_are_asked_to(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, gpu(0, 24))
    machine.deaths["GPU-0"] = Death(error="ValueError: odd", numbers=(5,))
    assert sorted(t["state"] for t in swept(*SIXTEEN, "study.slots=1")) == ["complete"] * 15 + ["failed"]
    machine.deaths.clear()
    assert sorted(t["state"] for t in swept(*SIXTEEN))[-1] == "failed"
    assert [t["state"] for t in swept(*SIXTEEN, "study.retry_failed=true")] == ["complete"] * 16
    assert len(list(in_tmp.glob("runs/*"))) == 1


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: device-side assert triggered", "CUDA error: an illegal memory access was encountered",
        "CUDA error: uncorrectable ECC error encountered", "NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus",
        "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", "No CUDA GPUs are available",
    ],
)  # fmt: skip
def test_these_errors_are_the_devices(text: str) -> None:
    assert is_device_error(text) and not is_device_error("ValueError: loss is not finite")


@pytest.mark.parametrize(
    ("code", "says", "is_from_outside"),
    [(-9, "killed from outside", True), (-15, "killed from outside", True), (-11, "signal 11", False),
     (1, "exit code 1", False), (None, "died", False)],
)  # fmt: skip
def test_the_exit_of_a_worker_shows_whether_it_was_killed(code: int | None, says: str, is_from_outside: bool) -> None:
    died = WorkerDied(lambda: code)
    assert says in died.reason and died.is_from_outside is is_from_outside
