"""Secrets in the environment or in error messages are neither stored nor printed."""

import json
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.faults.scenes import failing_with
from tests.faults.stage import Play
from tests.faults.sweeps import FAKE, LONG, results

pytestmark = [pytest.mark.slow, pytest.mark.processes]
Stage = Callable[..., Play]
CANARY = "hf_CanaryQ7xZ2pLw9"  # shorter than any real token
NAMES = ("HF_TOKEN", "MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY")


def secrets() -> dict[str, str]:
    """Return a different value per variable, so that a leak identifies the variable."""
    return {name: f"{CANARY}{place}" for place, name in enumerate(NAMES)}


def leaks(folder: Path) -> list[str]:
    """Return all places that contain the canary: files of any kind, and cells of all tables."""
    files = [f for f in folder.rglob("*") if f.is_file()]
    found = [str(f) for f in files if CANARY.encode() in f.read_bytes()]
    for file in (f for f in files if f.suffix == ".db"):
        with sqlite3.connect(file) as store:
            tables = [name for (name,) in store.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            for table in tables:
                rows = store.execute(f'SELECT * FROM "{table}"').fetchall()
                found += [f"{file}:{table}: {row}" for row in rows if CANARY in str(row)]
    assert files
    return found


def test_secrets_of_the_environment_in_an_exception_are_in_no_file_table_or_line(in_tmp: Path, staged: Stage) -> None:
    """Every trial fails with an error that contains all secrets, like a client that prints its request."""
    reason = "401 for https://me:{}@hub.example/x?token={} with Bearer {}, key={}".format(*secrets().values())
    play = staged(*LONG, "study.halt_after=2", scene=partial(failing_with, reason, secrets()), is_real=True)
    assert play.code() == 1, play.text
    assert "401 for https://***@hub.example" in play.text and "sweep halted" in play.text
    assert CANARY not in play.text
    assert not leaks(in_tmp)
    reports = [f for f in in_tmp.rglob("*") if f.is_file() and b"hub.example" in f.read_bytes()]
    kinds = {"result.json", "leaderboard.html", "leaderboard.md", "leaderboard.json", "study.db", "mlflow.db"}
    assert {f.name for f in reports} >= kinds  # the reason remains, without the secrets


def test_a_setting_that_takes_a_secret_from_the_environment_is_refused_and_nothing_is_written(
    in_tmp: Path, staged: Stage
) -> None:
    for setting in ("sweep.question", "model.revision", "tracking.experiment"):
        play = staged(*FAKE, f"{setting}='key ${{oc.env:HF_TOKEN}}'", scene=partial(failing_with, "", secrets()))
        assert play.code() == 78, play.text
        assert f"{setting}: contains the value of HF_TOKEN" in play.text and CANARY not in play.text
    assert list(in_tmp.iterdir()) == []


@pytest.mark.parametrize("kind", ["http://me:{}@127.0.0.1:9", "postgresql://me:{}@127.0.0.1:9/x", "mysql://{}@h/x"])
def test_a_password_in_the_address_of_the_tracker_is_kept_to_ourselves(kind: str, in_tmp: Path, staged: Stage) -> None:
    address = "tracking.uri='" + kind.replace("{}", "${oc.env:MLFLOW_TRACKING_PASSWORD}") + "'"
    play = staged(*FAKE, "study.trials=2", address, scene=partial(failing_with, "", secrets()))
    play.code()
    assert CANARY not in play.text and not leaks(in_tmp)


def test_a_secret_in_a_row_of_data_is_in_no_sample_report_or_table(in_tmp: Path, staged: Stage) -> None:
    """The row is scored unchanged; only stored and printed text is redacted."""
    own = in_tmp.parent / "my.jsonl"
    rows = [{"instruction": f"say {CANARY}0 {i}", "output": f"{CANARY}1 yes"} for i in range(8)]
    own.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = (f"data.train={own}", f"data.validation={own}", "data.test=null", "data=alpaca")
    space = ("train.learning_rate=1e-3,2e-3", "study.sampler=grid", "train.max_steps=2", "eval.rungs=1")
    settings = ("probes=none", "eval.objective=loss", "eval.metrics=[]", "eval.num_samples=2", "eval.max_new_tokens=4")
    play = staged(*data, *space, *settings, scene=partial(failing_with, "", secrets()), is_real=True)
    assert play.code() == 0, play.text
    assert CANARY not in play.text and not leaks(in_tmp)
    assert "say *** " in results(in_tmp)[0]["samples"][0]["prompt"]
    assert results(in_tmp)[0]["samples"][0]["reference"].startswith("*** yes")
