"""Every command and path in README and in the help works, with test files and a test base as the reader's own."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from lorasweep.cli import main, usage
from lorasweep.config.compose import compose
from lorasweep.config.folders import PACKAGE, data_dir
from lorasweep.driver.run_folder import run_folder

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"(?:^|[\s`$])python -m lorasweep ([^`\n]*)")
OF_RUNS = ("report ", "ui ")  # commands on a run folder: tests/test_report_command.py
TEMPLATE = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\\n' }}{% endfor %}"
SMALL = ("train.max_steps=1", "tracking=none", "probes=none", "eval.limit=4", "eval.rungs=1", "study.pruner=none")


def commands(page: Path) -> list[str]:
    """Return the sweeps of a page that hold no ellipsis, without `python -m lorasweep`."""
    return [line for line in COMMAND.findall(page.read_text()) if "…" not in line and not line.startswith(OF_RUNS)]


def examples() -> list[str]:
    """Return the example settings of the help, each a command line."""
    lines = usage().split("settings (Hydra")[1].splitlines()[1:]
    return [re.split(r"\s{2,}", line.strip())[0] for line in lines if line.strip()]


@pytest.fixture
def reader(in_tmp: Path) -> Path:
    """Work in a folder with a reader's files under the names in the docs; the demo is the reader's base."""
    rows = [{"instruction": f"Say {n}", "input": "", "output": f"{n}"} for n in range(120)]
    chats = [{"messages": [{"role": "user", "content": f"Say {n}"}, {"role": "assistant", "content": f"{n}"}]}
             for n in range(120)]  # fmt: skip
    texts = [f"text {n},{'odd' if n % 2 else 'even'}" for n in range(120)]
    questions = [{"ctx": f"After {n} comes", "endings": [str(n + 1), "a fish"], "label": 0} for n in range(8)]
    Path("my.jsonl").write_text("\n".join(map(json.dumps, rows)))
    Path("chats.jsonl").write_text("\n".join(map(json.dumps, chats)))
    Path("hellaswag.jsonl").write_text("\n".join(map(json.dumps, questions)))
    for name in ("train.csv", "test.csv"):
        Path(name).write_text("\n".join(["text,label", *texts]))
    base = shutil.copytree(PACKAGE / "demo" / "base", in_tmp / "path" / "to" / "model")
    shutil.copytree(base, in_tmp / "path" / "or" / "hub-id")
    settings = json.loads((base / "tokenizer_config.json").read_text())
    (base / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": TEMPLATE}))
    _small_ranks()
    _, written = compose([], data_dir("conf"), data_dir("sweeps"))
    (in_tmp / "runs" / "NAME").mkdir(parents=True)
    (in_tmp / "runs" / "NAME" / "config.yaml").write_text(written)  # as a run leaves it
    return in_tmp


def _small_ranks() -> None:
    """Write the sweep in the docs to a file with the name given there."""
    [text] = [text for page in PAGES for _, text in FENCE.findall(page.read_text()) if "my_sweeps/" in text]
    for folder, name in (("my_sweeps", "small_ranks"), ("DIR", "NAME")):
        Path(folder).mkdir()
        (Path(folder) / f"{name}.yaml").write_text(text)


def planned(line: str) -> list[str]:
    """Return a line's arguments, with a local base and local rows instead of those from the hub."""
    words = shlex.split(line)
    words = [re.sub(r"^data\.train=[\w-]+/[\w-]+:.*", "data.train=chats.jsonl", word) for word in words]
    if any(re.match(r"model=(?!demo)", word) for word in words):
        words += ["model.id=path/to/model", "model.dtype=fp32"]
    return ["plan", *(word for word in words if word != "plan"), "data.max_length=64"]


@pytest.mark.parametrize("line", [line for page in PAGES for line in commands(page)])
def test_a_command_of_the_pages_is_accepted(line: str, reader: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(planned(line)) == 0, capsys.readouterr().err
    assert "predicted memory" in capsys.readouterr().out


@pytest.mark.parametrize("line", examples())
def test_an_example_of_the_help_is_accepted(line: str, reader: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(line)
    words += ["+sweep=NAME"] if "--config-dir" in words else []
    assert main(words if "--cfg" in words else ["plan", *words]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_file_that_a_page_links_to_or_names_is_there(page: Path) -> None:
    text = page.read_text()
    linked = re.findall(r"\]\(([^)#:]+)\)", text)
    named = re.findall(r"`((?:\.ci|benchmarks|tests|conf|sweeps|docs|lorasweep)/[\w./-]+)`|bash (\.ci/\w+)", text)
    assert [path for path in linked if not (page.parent / path).exists()] == []
    assert [path for pair in named for path in pair if path and not (ROOT / path).exists()] == []
    modules = [name.replace(".", "/") for name in re.findall(r"python -m (benchmarks[\w.]+)", text)]
    assert [name for name in modules if not (ROOT / f"{name}.py").exists()] == []


def test_the_adapter_is_at_the_path_in_readme_and_peft_loads_it(reader: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    assert main(["sweep.name=rank_alpha", "model.id=path/to/model", "data=alpaca", "data.train=my.jsonl",
                 "eval.objective=loss", "eval.metrics=[]", *SMALL]) == 0  # fmt: skip
    [path] = re.findall(r'"(runs/.*/adapter)"', PAGES[0].read_text())
    [adapter] = reader.glob(path.replace("…", "*").replace("0017", "0000"))
    base = AutoModelForCausalLM.from_pretrained("path/to/model")
    assert PeftModel.from_pretrained(base, str(adapter)).active_adapter == "default"


def test_the_run_folder_has_the_name_in_readme(reader: Path) -> None:
    from lorasweep.planning.make import make_plan
    from tests.settings import composed

    assert re.fullmatch(r"runs/rank_alpha-\w+", str(run_folder(make_plan(composed("+sweep=rank_alpha")))))
