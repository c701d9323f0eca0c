"""Reports of earlier runs and MLflow's page, from the files of a run folder."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from lorasweep.cli import EXIT_CONFIG, main
from lorasweep.core.errors import ConfigError
from lorasweep.core.files import sqlite_url
from lorasweep.driver.ledger import Ledger
from lorasweep.tracking.ui import show, store_of

ROOT = Path(__file__).resolve().parent.parent
# So few validation rows that there is a note, and a test split.
QUICK = (
    "lora.r=2,4", "train.max_steps=3", "eval.rungs=1", "eval.num_samples=1", "eval.metrics=[]", "study.keep_adapters=2",
    "data.train=demo:intents/train.csv[:40]", "data.validation=demo:intents/validation.csv[:12]",
    "data.test=demo:intents/test.csv[:12]", "workers=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working directory with a finished run and its store."""
    folder = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(list(QUICK)) == 0
        yield folder


@pytest.fixture
def run(whole: Path, in_tmp: Path) -> Path:
    """A copy of the run folder."""
    (found,) = whole.glob("runs/*")
    return shutil.copytree(found, in_tmp / "runs" / found.name)


def files(run: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in run.glob("leaderboard.*")}


def test_a_report_writes_the_same_bytes(run: Path) -> None:
    before = files(run)
    for file in run.glob("leaderboard.*"):
        file.unlink()
    assert main(["report", str(run)]) == 0
    assert len(before) == 4 and files(run) == before


def test_a_report_of_an_earlier_versions_folder_writes_the_same_bytes(run: Path) -> None:
    before = files(run)
    (run / "plan.json").unlink()
    assert main(["report", str(run)]) == 0
    assert files(run) == before


def test_a_report_prints_the_table_and_the_advice(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run)]) == 0
    text = capsys.readouterr().out
    assert "95% interval" in text and "leaderboard.html" in text and "The highest-ranked is" in text


@pytest.mark.processes
def test_a_report_trains_nothing_and_loads_no_torch(run: Path) -> None:
    code = f"import sys; from lorasweep.cli import main; main(['report', {str(run)!r}]); print(*sys.modules)"
    modules = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).splitlines()[-1].split()
    assert not {"torch", "transformers", "peft", "mlflow", "optuna", "datasets"} & set(modules)


def test_a_result_that_cannot_be_read_is_left_out_and_left_alone(
    run: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "trials" / "0001" / "result.json").write_text("{")
    assert main(["report", str(run)]) == 0
    assert "0001/result.json is ignored" in caplog.text
    assert (run / "trials" / "0001" / "result.json").read_text() == "{"
    assert len(json.loads((run / "leaderboard.json").read_text())["rows"]) == 1


def test_files_are_only_read_while_a_sweep_runs(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in run.glob("leaderboard.*"):
        file.unlink()
    ledger = Ledger(run)
    try:
        assert main(["report", str(run)]) == 0
    finally:
        ledger.close()
    assert "a sweep is running in this folder" in capsys.readouterr().out and files(run) == {}


def test_a_run_without_results_has_an_empty_report(run: Path) -> None:
    shutil.rmtree(run / "trials")
    (run / "test.json").unlink()
    assert main(["report", str(run)]) == 0
    assert json.loads((run / "leaderboard.json").read_text())["rows"] == []


def test_a_folder_that_is_no_run_folder_is_refused(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(in_tmp)]) == EXIT_CONFIG
    assert "is not a run folder: it has no config.yaml and no run.json" in capsys.readouterr().err
    assert list(in_tmp.iterdir()) == []


def test_the_folder_above_run_folders_is_refused_with_the_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run.parent)]) == EXIT_CONFIG
    assert f"did you mean {run}?" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["a", "b"]])
def test_a_report_takes_one_folder(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", *words]) == EXIT_CONFIG
    assert "takes one run folder" in capsys.readouterr().err


def test_the_default_store_lies_where_the_sweep_was_started(in_tmp: Path) -> None:
    (in_tmp / "mlflow.db").touch()
    raw = {"output_dir": "out/runs", "tracking": {"backend": "mlflow", "uri": None}}
    assert store_of(raw, Path("out/runs/NAME")) == sqlite_url(in_tmp / "mlflow.db")


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"backend": "none"}, "with tracking=mlflow"),
        ({"uri": None}, "no store at .*mlflow.db"),
        ({"uri": "sqlite:////gone/my.db"}, "no store at /gone/my.db"),
        ({"uri": "postgresql://me:***@host/db"}, "had a password"),
    ],
)
def test_a_store_that_cannot_be_shown_is_named(settings: dict[str, str | None], text: str, in_tmp: Path) -> None:
    with pytest.raises(ConfigError, match=text):
        store_of({"tracking": settings}, in_tmp / "runs" / "NAME")


def test_of_a_tracking_server_the_address_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert show("http://host:5000/", "#/experiments/1") == 0
    assert capsys.readouterr().out == "http://host:5000/#/experiments/1\n"


@pytest.mark.parametrize("words", [["--port", "x"], ["--port"], ["--port=0"], ["a", "b"], []])
def test_mistakes_of_ui_are_reported(words: list[str], in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ui", *words]) == EXIT_CONFIG
    assert capsys.readouterr().err.startswith("lorasweep: 1 mistake")


@pytest.mark.processes
@pytest.mark.slow
def test_ui_answers_with_the_runs_view_until_ctrl_c(whole: Path) -> None:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "lorasweep", "ui", "--port", str(port)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=whole, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            assert _answers(address)
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
        finally:
            process.kill()
    (run,) = whole.glob("runs/*")
    assert address.startswith(f"http://127.0.0.1:{port}/#/experiments/") and address.endswith(run.name)
    assert not _answers(address, wait_s=0)


def _answers(address: str, wait_s: float = 60) -> bool:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            with urllib.request.urlopen(address, timeout=5) as page:
                return bool(page.status == 200)
        except OSError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.2)
