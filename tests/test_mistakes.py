"""All mistakes of a command are reported together within seconds, each with the nearest existing name."""

import socket
import time
from pathlib import Path

import pytest

from lorasweep.cli import EXIT_CONFIG, main
from lorasweep.config.compose import shell_completion
from lorasweep.config.folders import data_dir
from lorasweep.core import hub
from lorasweep.core.errors import ConfigError
from lorasweep.planning.make import make_plan
from tests.settings import composed, minimal


def problems(*arguments: str) -> str:
    with pytest.raises(ConfigError) as caught:
        make_plan(composed(*arguments))
    return "\n".join(caught.value.problems)


def test_files_probes_base_and_stores_are_checked_in_one_pass(in_tmp: Path) -> None:
    (in_tmp / "results").write_text("a file")
    text = problems(
        "data=classification", "data.train=a.csv", "data.validation=b.csv", "data.test=c.csv", "model.id=./gone",
        "eval.probes={x:{path:d.jsonl}}", "output_dir=results", "tracking.uri=redis://somewhere",
    )  # fmt: skip
    for part in ("a.csv: no such file", "b.csv: no such file", "c.csv: no such file", "no folder './gone'",
                 "eval.probes.x: d.jsonl", "output_dir:", "tracking.uri: redis://somewhere must start"):  # fmt: skip
        assert text.count(part) == 1


def test_files_and_probes_of_a_base_that_is_there_are_checked_together(in_tmp: Path) -> None:
    text = problems("data=classification", "data.train=a.csv", "eval.probes={x:{path:d.jsonl}}")
    assert "a.csv: no such file" in text and "eval.probes.x: d.jsonl: no such file" in text


@pytest.mark.parametrize(
    ("settings", "meant"),
    [({"objective": "acuracy"}, "'accuracy'"), ({"metrics": ["ROUGE-L", "loss"]}, "'rougeL'")],
)
def test_the_nearest_objective_or_metric_is_suggested(settings: dict[str, object], meant: str) -> None:
    from lorasweep.config.build import build_config

    with pytest.raises(ConfigError, match=f"did you mean {meant}") as caught:
        build_config(minimal(eval=settings))
    assert len(caught.value.problems) == 1


def test_the_nearest_file_is_suggested(in_tmp: Path) -> None:
    Path("intents.csv").write_text("text,label\na,b\n")
    assert "did you mean 'intents.csv'?" in problems("data=classification", "data.train=intnets.csv")


def test_a_missing_label_column_is_reported_once_with_the_existing_columns(in_tmp: Path) -> None:
    Path("a.csv").write_text("text,labels,id\n" + "".join(f"t{i},x,{i}\n" for i in range(50)))
    text = problems("data=classification", "data.train=a.csv", "probes=none")
    expected = "every row has no 'label'; it has 'text', 'labels', 'id'; set data.label_column=labels"
    assert text.count(expected) == 1


def test_a_missing_text_column_is_hinted_at_too(in_tmp: Path) -> None:
    Path("a.csv").write_text("words,label\n" + "".join(f"t{i},x\n" for i in range(50)))
    assert "has no 'text'; it has 'words', 'label'; set data.text_column=NAME" in problems(
        "data=classification", "data.train=a.csv", "probes=none"
    )


def test_a_word_near_a_command_is_answered_with_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pln", "lora.r=4"]) == EXIT_CONFIG
    assert "did you mean 'plan'?" in capsys.readouterr().err


@pytest.fixture
def closed_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the hub's address to a closed port."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    hub.is_unreachable.cache_clear()


@pytest.mark.usefixtures("closed_port")
def test_a_hub_that_does_not_answer_is_reported_within_seconds(in_tmp: Path) -> None:
    start = time.perf_counter()
    text = problems("model.id=some/base", "data=alpaca", "data.train=some/rows:train", "probes=general")
    assert "eval.probes: hellaswag, arc_easy, arc_challenge, winogrande, wikitext cannot be read" in text
    assert len(text.splitlines()) == 3
    assert text.count("does not answer, so only the local cache can be read") == 3
    assert time.perf_counter() - start < 20
    hub.is_unreachable.cache_clear()


@pytest.mark.parametrize(
    ("line", "expected"),
    [("lorasweep plan +sweep=rank", "+sweep=rank_alpha"), ("lorasweep data=cl", "data=classification"),
     ("lorasweep lora.lora_a", "lora.lora_alpha=")],
)  # fmt: skip
def test_a_shell_completes_sweeps_groups_and_settings(
    line: str, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setattr("sys.argv", ["x"])
    assert main(["--shell-completion", "query=bash"]) == 0
    assert capsys.readouterr().out.split() == [expected]


def test_a_shell_gets_the_script_that_completes_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["x"])
    shell_completion(["install=bash"], data_dir("conf"), data_dir("sweeps"))
    assert capsys.readouterr().out.rstrip().endswith("-F hydra_bash_completion lorasweep")
    assert main(["-sc", "install=tcsh"]) == EXIT_CONFIG
