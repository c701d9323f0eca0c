"""Kills between any two commits of a result: ledger, MLflow, mark of the upload, study."""

import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.faults.scenes import killed_around, killed_at_moment
from tests.faults.stage import Play
from tests.faults.sweeps import FAKE, audit, number_of, results

pytestmark = [pytest.mark.slow, pytest.mark.processes]
Stage = Callable[..., Play]
# First the commits of the driver, then those of the tracking thread, which may be far behind. The next launch
# uploads the missing results, so each commit is reached even if no trial is left.
BOUNDARIES = (
    ("optuna.storages._CachedStorage.create_new_trial", "after", 2),
    ("optuna.storages._CachedStorage.set_trial_param", "after", 2),
    ("lorasweep.driver.ledger.Ledger.write", "before", 2),
    ("lorasweep.driver.ledger.Ledger.write", "after", 2),
    ("optuna.trial.Trial.set_constraint", "before", 2),
    ("optuna.study.Study.tell", "before", 2),
    ("optuna.study.Study.tell", "after", 2),
    ("mlflow.MlflowClient.create_run", "after", 2),  # the sweep's own run was found again
    ("mlflow.MlflowClient.log_batch", "before", 4),
    ("lorasweep.tracking.mlflow.MlflowTracker._log_files", "before", 2),
    ("mlflow.MlflowClient.set_terminated", "before", 2),
    ("lorasweep.driver.ledger.Ledger.mark_exported", "before", 2),
    ("lorasweep.driver.ledger.Ledger.mark_exported", "after", 2),
)
NUM_TRIALS = 120  # so many that the driver reaches each boundary however far it is ahead of the tracker
TRIALS = (*FAKE, f"study.trials={NUM_TRIALS}")


def test_a_sweep_killed_at_every_commit_loses_nothing_and_repeats_nothing(in_tmp: Path, staged: Stage) -> None:
    """Kill one sweep once at each boundary and resume it: finished results do not change."""
    first = staged(*FAKE, "study.trials=1")
    assert first.code() == 0, first.text
    done = results(in_tmp)
    for target, when, nth in BOUNDARIES:
        play = staged(*TRIALS, scene=partial(killed_around, target, when, nth))
        assert play.code() == -signal.SIGKILL, f"{when} {target}:\n{play.text}"
        now = results(in_tmp)
        assert now.items() >= done.items()
        done = now
    last = staged(*TRIALS)
    assert last.code() == 0, last.text
    assert "cannot be read" not in last.text and "tracking failed" not in last.text
    audit(in_tmp, NUM_TRIALS)
    assert results(in_tmp).items() >= done.items()


MOMENTS = number_of("LORASWEEP_MOMENTS", 5)
GRID = (*FAKE, "train.learning_rate=1e-4,2e-4,3e-4", "study.sampler=grid")


def test_a_sweep_killed_at_any_commit_or_rename_has_the_same_results(in_tmp: Path, staged: Stage) -> None:
    """Boundaries are counted, not listed, so new ones are tested too."""
    note, store = in_tmp / "moments", in_tmp / "mlflow.db"

    def grid(folder: str, last: int | None = None) -> Play:
        arguments = (*GRID, f"output_dir={folder}/runs", f"tracking.uri=sqlite:///{store}")
        return staged(*arguments, scene=partial(killed_at_moment, note, last))

    for folder in ("first", "whole"):  # the first creates the store, which another test covers
        whole = grid(folder)
        assert whole.code() == 0, whole.text
    expected = sorted(r["objective"] for r in results(in_tmp / "whole").values())
    num_moments = int(note.read_text())
    assert len(expected) == 3 and num_moments > 50
    for place in range(MOMENTS):
        killed = grid(f"{place}", 1 + (2 * place + 1) * num_moments // (2 * MOMENTS))
        assert killed.code() == -signal.SIGKILL, killed.text
        again = grid(f"{place}")
        assert again.code() == 0, again.text
        audit(in_tmp / f"{place}", 3, store)
        assert sorted(r["objective"] for r in results(in_tmp / f"{place}").values()) == expected
