"""The command line answers at once, and mistakes end with one sentence."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lorasweep import __version__
from lorasweep.cli import EXIT_CONFIG, EXIT_UNREAD, main

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "transformers", "peft", "mlflow", "hydra", "optuna", "omegaconf", "datasets", "numpy")


def python(*arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.processes
def test_help_loads_nothing_heavy() -> None:
    code = "import json, sys; from lorasweep.cli import main; main(['--help']); print(json.dumps(list(sys.modules)))"
    modules = json.loads(python("-c", code).stdout.splitlines()[-1])
    assert not set(HEAVY) & set(modules)


@pytest.mark.processes
def test_help_answers_in_half_a_second() -> None:
    def seconds() -> float:
        start = time.perf_counter()
        assert python("-m", "lorasweep", "--help").returncode == 0
        return time.perf_counter() - start

    assert min(seconds() for _ in range(3)) < 0.5  # the best of three: the machine may be busy


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["help"], ["plan", "--help"], ["+sweep=foo", "--help"]])
def test_help_names_commands_sweeps_and_groups(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("plan", "+sweep=rank_alpha", "Which rank and alpha", "model=demo|"))


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert __version__ in capsys.readouterr().out


@pytest.mark.processes
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_without_a_reader_ends_quietly(unbuffered: str) -> None:
    unread, answers = os.pipe()
    os.close(unread)
    command = [sys.executable, "-m", "lorasweep", "--help"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": unbuffered}
    try:
        done = subprocess.run(command, env=environment, stdout=answers, stderr=subprocess.PIPE, text=True, timeout=60)
    finally:
        os.close(answers)
    assert (done.returncode, done.stderr) == (EXIT_UNREAD, "")


def test_a_broken_pipe_elsewhere_is_not_taken_for_an_unread_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> int:
        raise BrokenPipeError

    monkeypatch.setattr("lorasweep.cli._command", broken)
    with pytest.raises(BrokenPipeError):
        main(["plan"])


@pytest.mark.parametrize("arguments", [["+sweep=rank_alhpa"], ["plan", "model=foo"], ["lora.r=choice(4"], ["--fast"]])
def test_a_mistake_of_the_command_line_is_exit_code_78(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == EXIT_CONFIG
    text = capsys.readouterr().err
    assert text.startswith("lorasweep: 1 mistake in the configuration:")
    assert "Traceback" not in text


def test_a_word_that_is_no_command_is_answered_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pln", "+sweep=rank_alpha"]) == EXIT_CONFIG
    assert "'pln' is not a command; known: run, plan" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["plan", "run"])
def test_wrong_settings_are_reported_before_anything_runs(
    verb: str, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([verb, "lora.r=4,0", "train.lr=1", "quant=nf4"]) == EXIT_CONFIG
    text = capsys.readouterr().err
    assert "3 mistakes" in text
    assert "did you mean 'model.precision'?" in text
    assert not list(in_tmp.iterdir())


def test_the_composed_configuration_is_printed_and_nothing_runs(
    in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--cfg", "job", "+sweep=rank_alpha"]) == 0
    assert "choice(4, 8, 16)" in capsys.readouterr().out
    assert not list(in_tmp.iterdir())


def test_a_data_file_that_is_not_there_is_named(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "data=classification", "data.train=gone.csv"]) == EXIT_CONFIG
    assert "gone.csv: no such file" in capsys.readouterr().err


def test_a_base_that_is_not_there_is_named(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "model.id=nobody/nothing-at-all"]) == EXIT_CONFIG
    text = capsys.readouterr().err
    assert "model.id: 'nobody/nothing-at-all' cannot be read" in text
    assert "Traceback" not in text


def test_a_hub_data_set_that_cannot_be_read_is_named(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "data=alpaca", "data.train=nobody/nothing-at-all:train[:5%]"]) == EXIT_CONFIG
    assert "neither a local file nor a readable hub data set" in capsys.readouterr().err
