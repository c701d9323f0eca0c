"""Sweeps from Python equal those of the command line: same settings, same run folder, same trials."""

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas
import pytest
from datasets import Dataset, DatasetDict

import lorasweep
from lorasweep.cli import main
from lorasweep.config.overrides import override_words
from lorasweep.core.errors import ConfigError, DataError, LoraSweepError
from lorasweep.data.in_memory import sources_of
from lorasweep.data.layouts import format_of
from lorasweep.driver.run_folder import run_folder
from lorasweep.planning.make import make_plan
from lorasweep.planning.plan import Plan
from tests.settings import composed

ROOT = Path(__file__).resolve().parent.parent
WORDS = ("refund", "invoice", "password", "login")
ROWS = [{"text": f"{w} <b>{n}", "label": "money" if w in WORDS[:2] else "account"} for n in range(30) for w in WORDS]
QUICK = {"lora.r": [2, 4], "train.max_steps": 3, "eval.rungs": 1, "probes": "none", "tracking": "none", "workers": 1}
QUICK_WORDS = ["lora.r=2,4", "train.max_steps=3", "eval.rungs=1", "probes=none", "tracking=none", "workers=1"]


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> lorasweep.Leaderboard:
    """A sweep over two ranks on rows in memory."""
    return lorasweep.sweep({**QUICK, "output_dir": tmp_path_factory.mktemp("out")}, data=ROWS)


def results(folder: Path) -> dict[str, int]:
    return {str(f): f.stat().st_mtime_ns for f in folder.glob("trials/*/result.json")}


def folder_of(plan: Plan) -> Path:
    return run_folder(plan)


@pytest.mark.processes
def test_the_package_alone_imports_nothing_heavy() -> None:
    code = "import sys, lorasweep; print(*set(sys.modules) & {'torch', 'numpy', 'hydra', 'pandas', 'yaml'})"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).split() == []


def test_an_unknown_name_of_the_package_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'sweeep'"):
        _ = lorasweep.sweeep


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"lora.r": [4, 8]}, ["lora.r=4,8"]),
        ({"lora": {"r": [4], "use_rslora": True}}, ["lora.r=4", "lora.use_rslora=true"]),
        ({"train.learning_rate": "tag(log,interval(1e-4,1e-2))"}, ["train.learning_rate=tag(log,interval(1e-4,1e-2))"]),
        ({"lora.target_modules": ["qv", ("q_proj", "o_proj")]}, ["lora.target_modules=qv,[q_proj,o_proj]"]),
        ({"eval.metrics": ["rouge1", "rouge2"]}, ["eval.metrics=[rouge1,rouge2]"]),
        ({"eval.probes": {"mine": {"path": "a b.jsonl"}}}, ['eval.probes={mine:{path:"a b.jsonl"}}']),
        (
            {"study.timeout_min": None, "data.train": Path("my.jsonl")},
            ["study.timeout_min=null", "data.train=my.jsonl"],
        ),
        (["lora.r=4,8", "+sweep=rank_alpha"], ["lora.r=4,8", "+sweep=rank_alpha"]),
        ("lora.r=4,8", ["lora.r=4,8"]),
    ],
)
def test_settings_become_words_of_the_command_line(overrides: Any, words: list[str]) -> None:
    assert override_words(overrides) == words


@pytest.mark.parametrize("text", ['say "{text}"\nLabel: (a, b)', "{text} back\\slash\\", "a=b, [c] {text}"])
def test_a_text_reaches_its_setting_unchanged(text: str) -> None:
    plan = lorasweep.plan({"data.template": text, "probes": "none"})
    assert plan.config.data.template == text


@pytest.mark.parametrize(("value", "text"), [([], "holds no choice"), (object(), "is of type object")])
def test_a_value_that_no_setting_has_is_refused(value: object, text: str) -> None:
    with pytest.raises(ConfigError, match=f"lora.r: .*{text}"):
        override_words({"lora.r": value})


def test_a_run_folder_does_not_depend_on_how_settings_are_written() -> None:
    short, long = (
        lorasweep.plan({"train.learning_rate": ["1e-4", "1e-3"]}),
        lorasweep.plan(
            ["train.learning_rate=0.0001,0.001", "lora.method=lora", "study.trials=7", "sweep.question=why"]
        ),
    )
    assert folder_of(short) == folder_of(long)
    assert folder_of(short) != folder_of(lorasweep.plan(["train.learning_rate=0.0001,0.001", "lora.r=4"]))


def test_python_and_the_command_line_name_the_same_run_and_the_same_trials() -> None:
    (source,) = sources_of(ROWS).values()
    here = lorasweep.plan({**QUICK, "study.pruner": "none"}, sweep="learning_rate", data=ROWS)
    line = ["+sweep=learning_rate", "data=classification", f"data.train={source}", *QUICK_WORDS, "study.pruner=none"]
    there = lorasweep.plan(line)
    assert folder_of(here) == folder_of(there) == folder_of(make_plan(composed(*line)))
    assert [t.spec.fingerprint for t in here.trials] == [t.spec.fingerprint for t in there.trials]


def test_a_sweep_of_the_command_line_is_found_again(in_tmp: Path) -> None:
    Path("my.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert main(["data=classification", "data.train=my.jsonl", *QUICK_WORDS]) == 0
    (run,) = Path("runs").iterdir()
    before = results(run)
    found = lorasweep.sweep(QUICK, data="my.jsonl")
    assert found.folder == run.resolve() and results(run) == before


def test_equal_rows_have_one_file_whatever_held_them() -> None:
    frame, table = pandas.DataFrame(ROWS), Dataset.from_list(ROWS)
    sources = [sources_of(data)["train"] for data in (ROWS, frame, table, iter(ROWS), {"train": ROWS})]
    assert len(set(sources)) == 1
    assert [json.loads(line) for line in Path(sources[0]).read_text().splitlines()] == ROWS


def test_other_rows_are_another_file() -> None:
    assert sources_of(ROWS) != sources_of(ROWS[1:])


def test_splits_of_a_dataset_dict_become_splits_of_the_sweep() -> None:
    table = Dataset.from_list(ROWS)
    splits = DatasetDict(train=table.select(range(100)), validation=table.select(range(100, 120)))
    plan = lorasweep.plan({"probes": "none"}, data=splits)
    (facts,) = plan.facts.values()
    assert (facts.num_train, facts.num_validation, facts.num_test) == (100, 20, 0)


def test_a_missing_value_of_a_frame_is_null() -> None:
    frame = pandas.DataFrame({"text": ["a", None], "n": [1.0, float("nan")]})
    lines = Path(sources_of(frame)["train"]).read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"text": "a", "n": 1.0}, {"text": None, "n": None}]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ([], "holds no rows"),
        (pandas.DataFrame(), "holds no rows"),
        ({"train": []}, "holds no rows"),
        ({"dev": ROWS}, "name the splits train"),
        ([1, 2], "row 1: is of type int; a row must be a dict"),
        ([{"text": "a"}, {3: "b"}], "row 2: the column 3 has no name"),
        ([{"text": float("nan")}], "row 1: .* give texts, numbers"),
        ([{"text": object()}], "row 1: .* is of type object"),
        (pandas.DataFrame([["a", "b"]], columns=["text", "text"]), "several columns named 'text'"),
        (7, "is of type int; give a DataFrame"),
    ],
)
def test_data_that_cannot_be_used_is_refused(data: object, text: str) -> None:
    with pytest.raises(DataError, match=text):
        sources_of(data)


@pytest.mark.parametrize(
    ("columns", "name"),
    [
        (["instruction", "input", "output"], "alpaca"),
        (["messages"], "messages"),
        (["conversations", "id"], "messages"),
        (["prompt", "completion"], "prompt_completion"),
        (["question", "answer"], "prompt_completion"),
        (["question", "options", "answer"], "multiple_choice"),
        (["text", "label"], "classification"),
        (["sentence", "category"], "classification"),
        (["text", "title"], "text"),
    ],
)
def test_the_format_is_found_from_the_columns(columns: list[str], name: str) -> None:
    assert format_of(columns, "data") == name


def test_columns_of_no_format_are_named_with_the_remedy() -> None:
    with pytest.raises(
        DataError, match="'utterance', 'intent_id' are those of no format; rename them, or give format="
    ):
        lorasweep.plan(data=[{"utterance": "a", "intent_id": 1}])


@pytest.mark.parametrize("name", ["chat", "messages"])
def test_a_format_may_be_named_by_its_group(name: str) -> None:
    rows = [
        {"messages": [{"role": "user", "content": str(n)}, {"role": "assistant", "content": "x"}]} for n in range(99)
    ]
    with pytest.raises(ConfigError, match="chat template"):  # the demo has none
        lorasweep.plan({"probes": "none"}, data=rows, format=name)


def test_training_data_given_twice_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.train: is also set by data="):
        lorasweep.plan({"data.train": "other.jsonl"}, data=ROWS)


@pytest.mark.parametrize("words", [["lora.r=choice(4"], ["+sweep=rank_alhpa"], ["~nothing"], ["--cfg", "job"]])
def test_mistakes_are_errors_of_the_configuration(words: list[str]) -> None:
    with pytest.raises(ConfigError):
        lorasweep.plan(words)


def test_the_leaderboard_has_the_rows_and_the_best(board: lorasweep.Leaderboard) -> None:
    assert [row.rank for row in board.rows] == [1, 2]
    assert board.best is board.rows[0] and set(board.best.settings) == {"lora.r"}


def test_a_frame_has_the_columns_and_values_of_the_csv(board: lorasweep.Leaderboard) -> None:
    text = {"trials": str, "fingerprint": str}
    written = pandas.read_csv(board.folder / "leaderboard.csv", dtype=text, keep_default_na=False, na_values=[""])
    pandas.testing.assert_frame_equal(board.to_frame(), written, check_dtype=False, check_exact=True)


def test_a_notebook_shows_table_and_advice_without_the_users_tags(board: lorasweep.Leaderboard) -> None:
    page = replace(board, question="<b>?")._repr_html_()
    assert "<table>" in page and "The highest-ranked" in page
    assert "<b>" not in page and "&lt;b&gt;?" in page


def test_the_best_adapter_is_loaded_by_peft(board: lorasweep.Leaderboard) -> None:
    from peft import PeftModel

    model, tokenizer = board.best.load()
    assert isinstance(model, PeftModel) and model.peft_config["default"].r == board.best.settings["lora.r"]
    assert tokenizer.decode(tokenizer("refund").input_ids, skip_special_tokens=True).strip() == "refund"


def test_an_adapter_that_was_not_kept_is_refused_with_the_remedy(board: lorasweep.Leaderboard) -> None:
    with pytest.raises(LoraSweepError, match=r"its adapter was not kept; set study\.keep_adapters"):
        board.rows[1].load()


def test_results_are_read_again_from_the_folder(board: lorasweep.Leaderboard) -> None:
    found = lorasweep.load_results(board.folder)
    assert found.to_frame().equals(board.to_frame())
    assert found.advice == board.advice and found.notes == board.notes


def test_a_sweep_without_a_completed_trial_has_no_best(in_tmp: Path) -> None:
    found = lorasweep.sweep({**QUICK, "study.memory_gib": 0.001}, data=ROWS)
    with pytest.raises(LoraSweepError, match="no trial was completed"):
        _ = found.best


def test_a_sweep_runs_in_a_thread(in_tmp: Path) -> None:
    found: list[lorasweep.Leaderboard] = []
    thread = threading.Thread(target=lambda: found.append(lorasweep.sweep(QUICK, data=ROWS)))
    thread.start()
    thread.join(120)
    assert len(found[0].ranked) == 2


@pytest.mark.slow
def test_an_interrupt_saves_the_trials_and_the_same_call_goes_on(in_tmp: Path) -> None:
    settings = {**QUICK, "lora.r": [1, 2, 3, 4], "study.sampler": "grid", "study.slots": 1, "train.max_steps": 40}

    def interrupt() -> None:
        while not list(in_tmp.glob("runs/*/trials/*/result.json")):
            stopped.wait(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    stopped = threading.Event()
    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt, match="the same call continues"):
        lorasweep.sweep(settings, data=ROWS)
    (run,) = in_tmp.glob("runs/*")
    done = results(run)
    assert 1 <= len(lorasweep.load_results(run).ranked) < 4
    assert len(lorasweep.sweep(settings, data=ROWS).ranked) == 4 and results(run).items() >= done.items()


@pytest.mark.processes
@pytest.mark.slow
def test_workers_do_not_run_the_callers_script(in_tmp: Path) -> None:
    Path("mine.py").write_text(
        f"import lorasweep\nprint('begins')\nboard = lorasweep.sweep({QUICK | {'workers': 2}!r}, data={ROWS!r})\n"
        "print(len(board.ranked))\n"
    )
    done = subprocess.run(
        [sys.executable, "mine.py"], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert (done.stdout.count("begins"), done.stdout.split()[-1]) == (1, "2"), done.stderr
