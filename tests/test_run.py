"""Whole sweeps, as the command line runs them: resumed, pruned, repeated, interrupted, tracked."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pytest

from lorasweep.cli import main

pytestmark = pytest.mark.slow
REPO = Path(__file__).resolve().parent.parent
QUICK = (
    "train.max_steps=3", "eval.rungs=1", "eval.num_samples=1", "eval.metrics=[]", "probes=none",
    "data.train=demo:intents/train.csv[:40]", "data.validation=demo:intents/validation.csv[:12]",
    "data.test=demo:intents/test.csv[:12]",
)  # fmt: skip
SMALL_GRID = ("lora.r=2,4", "train.learning_rate=1e-3,5e-3", "study.sampler=grid")


def board(folder: Path) -> dict[str, Any]:
    """Return the only leaderboard below a folder."""
    (file,) = folder.glob("runs/*/leaderboard.json")
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def states(folder: Path) -> list[str]:
    (file,) = folder.glob("runs/*/study.db")
    study = optuna.load_study(study_name="sweep", storage=f"sqlite:///{file}")
    return [t.state.name for t in study.get_trials(deepcopy=False)]


def trial_files(folder: Path) -> dict[str, int]:
    return {str(f): f.stat().st_mtime_ns for f in folder.glob("runs/*/trials/*/result.json")}


def test_a_sweep_leaves_a_leaderboard_a_study_and_the_best_adapter(in_tmp: Path) -> None:
    assert main([*QUICK, *SMALL_GRID, "tracking=none"]) == 0
    assert {p.suffix for p in in_tmp.glob("runs/*/leaderboard.*")} == {".md", ".csv", ".json", ".html"}
    assert states(in_tmp) == ["COMPLETE"] * 4
    assert len(list(in_tmp.glob("runs/*/trials/*/adapter/adapter_model.safetensors"))) == 1


def test_the_winner_is_one_trial_in_leaderboard_adapter_and_test_scores(in_tmp: Path) -> None:
    """Sweep two learning rates with three seeds each: six trials, two rows, one adapter with test scores."""
    space = ("train.learning_rate=1e-3,2e-2", "train.seed=0,1,2", "study.sampler=grid")
    assert main([*QUICK, *space, "tracking=none"]) == 0
    found = board(in_tmp)
    (kept,) = in_tmp.glob("runs/*/trials/*/adapter")
    (noted,) = in_tmp.glob("runs/*/test.json")
    tested = json.loads(noted.read_text())
    assert [len(row["trials"]) for row in found["rows"]] == [3, 3] and len(found["trials"]) == 6
    assert found["winner"] == int(kept.parent.name) == tested["trial"] == min(found["rows"][0]["trials"])
    assert found["test_metrics"] == tested["metrics"]


@pytest.mark.processes
def test_a_sweep_of_seeds_that_was_interrupted_still_has_its_winners_adapter(in_tmp: Path) -> None:
    """The mean over completed seeds changes during the sweep, and with it the adapter to keep."""
    space = ("train.learning_rate=1e-3,2e-2", "train.seed=0,1,2", "study.sampler=grid", "study.slots=1")
    command = [*QUICK, *space, "train.max_steps=20", "tracking=none"]
    process = launch(in_tmp, *command)
    wait_for(in_tmp, 2)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert main(command) == 0
    (kept,) = in_tmp.glob("runs/*/trials/*/adapter")
    assert int(kept.parent.name) == board(in_tmp)["winner"]


@pytest.mark.parametrize("objective", ["loss", "perplexity"])
def test_an_objective_over_tokens_has_an_interval(in_tmp: Path, objective: str) -> None:
    assert main([*QUICK, *SMALL_GRID, f"eval.objective={objective}", "tracking=none"]) == 0
    found = board(in_tmp)
    assert all(row["interval"][0] < row["objective"] < row["interval"][1] for row in found["rows"])
    assert found["optimism"] is not None and not any("no interval" in note for note in found["notes"])


def test_the_same_command_again_trains_nothing_and_reports_the_same(in_tmp: Path) -> None:
    command = [*QUICK, *SMALL_GRID, "tracking=none"]
    assert main(command) == 0
    before = {f: f.read_bytes() for f in in_tmp.glob("runs/*/leaderboard.*")}
    files = trial_files(in_tmp)
    assert main(command) == 0
    assert trial_files(in_tmp) == files
    assert {f: f.read_bytes() for f in before} == before


def test_other_settings_are_another_run(in_tmp: Path) -> None:
    assert main([*QUICK, "tracking=none"]) == main([*QUICK, "tracking=none", "train.seed=1"]) == 0
    assert len(list(in_tmp.glob("runs/*"))) == 2


def test_more_trials_go_on_in_the_same_run(in_tmp: Path) -> None:
    command = [*QUICK, "lora.r=int(interval(1,8))", "tracking=none"]
    assert main([*command, "study.trials=2"]) == 0
    files = trial_files(in_tmp)
    assert main([*command, "study.trials=4"]) == 0
    assert trial_files(in_tmp).items() >= files.items()
    assert len(states(in_tmp)) == 4


def test_a_point_that_comes_again_is_not_trained_again(in_tmp: Path) -> None:
    """Two points, eight suggestions: two trials are trained, and the sweep ends without new points."""
    assert main([*QUICK, "lora.r=2,4", "study.sampler=random", "study.trials=8", "tracking=none"]) == 0
    results = [json.loads(Path(f).read_text()) for f in trial_files(in_tmp)]
    trained = [r["params"] for r in results if r["same_as"] is None]
    assert sorted(trained, key=str) == [{"lora.r": 2}, {"lora.r": 4}]
    assert None not in [r["objective"] for r in results]


def test_a_pruner_stops_trials_and_the_leaderboard_has_the_reasons(in_tmp: Path) -> None:
    settings = ("eval.rungs=3", "train.max_steps=6", "study.pruner=successive_halving", "study.slots=2")
    assert (
        main([*QUICK, "train.learning_rate=1e-5,1e-2,2e-5,3e-5", "study.sampler=grid", *settings, "tracking=none"]) == 0
    )
    pruned = [t for t in board(in_tmp)["trials"] if t["state"] == "pruned"]
    assert pruned and all("successive_halving" in t["reason"] for t in pruned)


PRUNING = ("train.learning_rate=1e-2,5e-3,4e-5,3e-5,2e-5,1e-5", "study.sampler=grid", "study.pruner=rules",
          "eval.rungs=3", "eval.rung_factor=2", "eval.rung_limit=6", "train.max_steps=8")  # fmt: skip


def test_poor_trials_stop_early_and_the_leaderboard_names_the_rules(in_tmp: Path) -> None:
    assert main([*QUICK, *PRUNING, "tracking=none"]) == 0
    found = board(in_tmp)
    pruned = [t for t in found["trials"] if t["state"] == "pruned"]
    assert pruned and {t["stopped_by"] for t in pruned} == {"rank"}
    assert all("rules pruner: accuracy " in t["reason"] and "go on" in t["reason"] for t in pruned)
    assert (
        f"{len(pruned)} of 6 trials were stopped early ({len(pruned)} by rank), which saved" in found["recommendation"]
    )


@pytest.mark.processes
def test_a_killed_sweep_prunes_the_same_trials_as_one_without_interruption(in_tmp: Path) -> None:
    command = [*QUICK, *PRUNING, "study.slots=1", "tracking=none"]
    assert main([*command, "output_dir=whole/runs"]) == 0
    process = launch(in_tmp, *command)
    wait_for(in_tmp, 3)
    process.kill()
    process.communicate()
    assert main(command) == 0
    here, there = board(in_tmp), board(in_tmp / "whole")
    ended = [{t["trial"]: (t["state"], t["stopped_by"]) for t in found["trials"]} for found in (here, there)]
    assert ended[0] == ended[1] and "PRUNED" in states(in_tmp)


def test_a_trial_that_cannot_fit_is_infeasible_and_never_launched(in_tmp: Path) -> None:
    assert main([*QUICK, "lora.r=2,4", "study.sampler=grid", "study.memory_gib=0.001", "tracking=none"]) == 1
    assert {t["state"] for t in board(in_tmp)["trials"]} == {"infeasible"}
    assert states(in_tmp) == ["PRUNED"] * 2


def test_bases_of_two_precisions_share_one_study(in_tmp: Path) -> None:
    assert main([*QUICK, "model.precision=none,nf4", "lora.r=2,4", "study.sampler=grid", "tracking=none"]) == 0
    assert {t["state"] for t in board(in_tmp)["trials"]} == {"complete"}


@pytest.mark.processes
def test_a_local_process_gives_what_this_process_gives(in_tmp: Path, tmp_path: Path) -> None:
    command = [*QUICK, *SMALL_GRID, "tracking=none"]
    assert main([*command, "output_dir=runs"]) == main([*command, "executor=local", "output_dir=other/runs"]) == 0
    here, there = board(in_tmp), board(in_tmp / "other")
    assert [t["objective"] for t in here["trials"]] == [t["objective"] for t in there["trials"]]


def test_mlflow_holds_a_parent_and_a_child_per_trial_once(in_tmp: Path) -> None:
    from mlflow import MlflowClient

    command = [*QUICK, "lora.r=2,4", "study.sampler=grid"]
    assert main(command) == 0 and main(command) == 0
    client = MlflowClient(f"sqlite:///{in_tmp / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("lorasweep")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [r for r in runs if r.data.tags["lorasweep.kind"] == "sweep"]
    children = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(runs) == 3 and len(children) == 2
    assert {r.data.params["r"] for r in children} == {"2", "4"}
    assert all(r.info.status == "FINISHED" and "accuracy" in r.data.metrics for r in (*children, parent))
    assert "| trial |" in parent.data.tags["mlflow.note.content"]
    names = {a.path for a in client.list_artifacts(parent.info.run_id)}
    assert {"adapter", "leaderboard.html", "config.yaml"} <= names


def test_results_wait_in_the_ledger_while_mlflow_is_away(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lorasweep.tracking.mlflow import MlflowTracker

    def away(*_: object) -> None:
        raise ConnectionError("no route to host")

    command = [*QUICK, "lora.r=2,4", "study.sampler=grid"]
    with monkeypatch.context() as patch:
        patch.setattr(MlflowTracker, "handle", away)
        assert main(command) == 0
    assert not list(in_tmp.glob("runs/*/trials/*/exported"))
    assert main(command) == 0
    assert len(list(in_tmp.glob("runs/*/trials/*/exported"))) == 2


def test_a_sweep_first_run_without_tracking_can_be_tracked_later(in_tmp: Path) -> None:
    command = [*QUICK, "lora.r=2,4", "study.sampler=grid"]
    assert main([*command, "tracking=none"]) == 0 and main(command) == 0
    assert len(list(in_tmp.glob("runs/*/trials/*/exported"))) == 2


def test_data_that_changed_under_a_run_is_refused(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = "text,label\n" + "".join(f"say {i},{'yes' if i % 2 else 'no'}\n" for i in range(40))
    Path("a.csv").write_text(rows)
    command = ["data=classification", "data.train=a.csv", "train.max_steps=2", "probes=none", "tracking=none"]
    assert main(command) == 0
    Path("a.csv").write_text(rows.replace("say 3,", "said 3,"))
    assert main(command) == 78
    assert "changed since this run began" in capsys.readouterr().err


def test_trials_that_do_not_fit_together_run_one_after_the_other(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from lorasweep.adapters.bank import Bank

    whole = Bank.backward

    def small(self: Bank, slots: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        if len(slots) > 1:
            raise torch.OutOfMemoryError("the device is full")
        return whole(self, slots, *args, **kwargs)

    monkeypatch.setattr(Bank, "backward", small)
    assert main([*QUICK, *SMALL_GRID, "tracking=none"]) == 0
    assert states(in_tmp) == ["COMPLETE"] * 4


def test_a_winner_that_cannot_be_scored_still_has_its_leaderboard(
    in_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lorasweep.worker.session.test_metrics", lambda *_: 1 / 0)
    assert main([*QUICK, "tracking=none"]) == 0
    assert board(in_tmp)["trials"][0]["state"] == "complete"


def test_two_launches_of_one_sweep_do_not_mix(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from lorasweep.driver.ledger import Ledger

    assert main([*QUICK, "tracking=none"]) == 0
    (folder,) = in_tmp.glob("runs/*")
    holder = Ledger(folder, owner="process 7 on box")
    assert main([*QUICK, "tracking=none"]) == 3
    holder.close()
    assert "in use by process 7 on box" in capsys.readouterr().err


def launch(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": str(REPO), "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "lorasweep", *arguments],
        cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def wait_for(folder: Path, num_results: int) -> None:
    deadline = time.monotonic() + 120
    while len(trial_files(folder)) < num_results:
        assert time.monotonic() < deadline, f"there are not {num_results} results yet"
        time.sleep(0.05)


@pytest.mark.processes
def test_ctrl_c_ends_in_order_and_the_same_command_goes_on(in_tmp: Path) -> None:
    command = [*QUICK, *SMALL_GRID, "study.slots=1", "train.max_steps=40", "tracking=none"]
    process = launch(in_tmp, *command)
    wait_for(in_tmp, 1)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "run the same command to continue" in output and "Traceback" not in output
    done = trial_files(in_tmp)
    assert 1 <= len(done) < 4
    assert main(command) == 0
    assert trial_files(in_tmp).items() >= done.items() and states(in_tmp) == ["COMPLETE"] * 4


@pytest.mark.processes
def test_a_killed_driver_loses_no_finished_trial(in_tmp: Path) -> None:
    command = [*QUICK, *SMALL_GRID, "study.slots=1", "tracking=none"]
    process = launch(in_tmp, *command)
    wait_for(in_tmp, 2)
    process.kill()
    process.communicate()
    done = trial_files(in_tmp)
    assert main(command) == 0
    assert trial_files(in_tmp).items() >= done.items() and states(in_tmp) == ["COMPLETE"] * 4


def test_the_sweeps_run_in_mlflow_has_the_base_and_chance_beside_its_winner(in_tmp: Path) -> None:
    from mlflow import MlflowClient

    assert main([*QUICK, "lora.r=2,4"]) == 0
    client = MlflowClient(f"sqlite:///{in_tmp / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("lorasweep")
    assert experiment is not None
    [parent] = client.search_runs([experiment.experiment_id], "tags.`lorasweep.kind` = 'sweep'")
    [(name, base), (_, chance), *_] = [(one["name"], one["metrics"]) for one in board(in_tmp)["references"]]
    assert name == "base" and set(base) == {"accuracy", "loss"}
    assert {k: parent.data.metrics[f"base/{k}"] for k in base} == base
    assert parent.data.metrics["chance/accuracy"] == chance["accuracy"] == 0.125


def test_a_sweep_runs_again_from_the_config_that_it_wrote(in_tmp: Path) -> None:
    """The same folder and the same trials: the stored configuration is complete."""
    assert main([*QUICK, "lora.r=2,4", "study.sampler=grid", "eval.max_new_tokens=9", "tracking=none"]) == 0
    (run,) = in_tmp.glob("runs/*")
    before, text = trial_files(in_tmp), (run / "config.yaml").read_text()
    assert main(["--config-dir", str(run), "--config-name", "config"]) == 0
    assert trial_files(in_tmp) == before and len(before) == 2
    assert (run / "config.yaml").read_text() == text and "max_new_tokens: 9" in text
