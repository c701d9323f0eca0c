"""The ledger has one owner, survives damage, and returns the written results."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from lorasweep.core.errors import AlreadyRunning
from lorasweep.core.messages import CHECKPOINT
from lorasweep.core.result import Cost, Point, Probe, Sample, TrialState
from lorasweep.core.spec import ProbeSpec
from lorasweep.driver.ledger import Ledger
from tests.settings import SPEC, result

FULL = replace(
    result(
        3,
        reason="é\nü",
        objective=0.1 + 0.2,
        metrics={"accuracy": 0.5, "loss": float("inf")},
        history=(Point(step=1, metrics={"loss": 2.5}),),
        scores=(1.0, 0.0),
        probes=(Probe(name="p", metric="accuracy", before=1, after=0.5, drop=0.5, relative_drop=0.5, low=0, high=1),),
        samples=(Sample(prompt="a\u2028", reference="b", output="c"),),
        cost=Cost(wall_s=1.5, peak_bytes=1 << 40),
        provenance={"commit": "none"},
        same_as=1,
    ),
    spec=replace(SPEC, eval=replace(SPEC.eval, metrics=("rouge1",), probes=(ProbeSpec(name="p", path="p.jsonl"),))),
)


def reopened(ledger: Ledger) -> Ledger:
    ledger.close()
    return Ledger(ledger.folder)


def test_a_result_comes_back_as_it_was_written(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "my run")
    ledger.write(FULL)
    assert reopened(ledger).results == {3: FULL}


@pytest.mark.parametrize("state", list(TrialState))
def test_every_state_comes_back(state: TrialState, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.write(result(0, state))
    assert reopened(ledger).results[0].state is state


def test_a_second_owner_is_refused_with_the_name_of_the_first(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.note("owner", {"owner": "process 7 on box"})
    with pytest.raises(AlreadyRunning, match="is in use by process 7 on box; wait for it"):
        Ledger(tmp_path)


def test_a_second_holder_is_refused_before_the_first_has_signed(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    with pytest.raises(AlreadyRunning, match="is in use by another process"):
        Ledger(tmp_path)
    ledger.close()


def test_a_closed_ledger_can_be_taken_up(tmp_path: Path) -> None:
    assert reopened(Ledger(tmp_path)).results == {}


@pytest.mark.parametrize("damage", ["", '{"number": 1, "sta', "[]", "null", '{"number": 1}', "\x00\x00"])
def test_a_damaged_result_is_reported_and_ignored_and_others_are_read(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = Ledger(tmp_path)
    for number in range(3):
        ledger.write(result(number))
    (ledger.trial_folder(1) / "result.json").write_text(damage)
    assert sorted(reopened(ledger).results) == [0, 2]
    assert "0001/result.json cannot be read" in caplog.text
    assert "the trial will run again" in caplog.text


WRONG = [("objective", "high"), ("scores", ["a"]), ("history", 5), ("spec", "x"), ("cost", {"wall_s": "long"}),
         ("metrics", {"accuracy": None}), ("samples", [1]), ("number", "3"), ("state", 1),
         ("same_as", True)]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_result_of_wrong_types_is_set_aside_even_without_a_digest(
    name: str, value: object, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = Ledger(tmp_path)
    ledger.write(FULL)
    file = ledger.trial_folder(3) / "result.json"
    raw = {**json.loads(file.read_text()), name: value}
    del raw["digest"]
    file.write_text(json.dumps(raw))
    assert reopened(ledger).results == {} and "0003/result.json cannot be read" in caplog.text
    assert [f.name.split("-")[0] for f in file.parent.glob("result*")] == ["result.json.broken"]


def test_a_result_that_was_edited_or_copied_is_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ledger, other = Ledger(tmp_path / "a"), Ledger(tmp_path / "b")
    for number in (3, 4):
        ledger.write(replace(FULL, number=number))
        other.write(replace(FULL, number=number))
    text = (other.trial_folder(4) / "result.json").read_text()
    (ledger.trial_folder(4) / "result.json").write_text(text)
    file = ledger.trial_folder(3) / "result.json"
    file.write_text(file.read_text().replace('"accuracy": 0.5', '"accuracy": 0.9'))
    ledger.trial_folder(5).mkdir()
    (ledger.trial_folder(5) / "result.json").write_text(text.replace(other.run, ledger.run))
    assert reopened(ledger).results == {}
    assert "was copied from another run" in caplog.text and caplog.text.count("was edited") == 2


def test_a_copy_under_another_number_is_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ledger = Ledger(tmp_path)
    ledger.write(FULL)
    shutil.copytree(ledger.trial_folder(3), ledger.trial_folder(7))
    assert sorted(reopened(ledger).results) == [3] and "is the result of trial 3" in caplog.text


def test_a_run_keeps_its_name_when_its_folder_moves_and_when_the_file_with_the_name_is_lost(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "a")
    ledger.write(FULL)
    ledger.close()
    (tmp_path / "a").rename(tmp_path / "b")
    (tmp_path / "b" / "run.json").unlink()
    moved = Ledger(tmp_path / "b")
    assert moved.run == ledger.run and moved.results == {3: FULL}


def test_what_the_tracker_has_is_marked(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.write(result(0))
    assert not ledger.is_exported(0, "here")
    ledger.mark_exported(0, "here")
    assert ledger.is_exported(0, "here")
    assert not ledger.is_exported(0, "elsewhere")


def test_where_nothing_is_tracked_nothing_is_left_to_export(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.write(result(0))
    ledger.mark_exported(0, "")
    assert ledger.is_exported(0, "")
    assert not (ledger.trial_folder(0) / "exported").exists()


def test_an_adapter_can_be_dropped_twice(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.adapter_folder(0).mkdir(parents=True)
    (ledger.adapter_folder(0) / "adapter_model.safetensors").write_text("x")
    ledger.drop_adapter(0)
    ledger.drop_adapter(0)
    assert not ledger.adapter_folder(0).exists()


def test_a_note_comes_back_and_a_missing_or_damaged_one_is_empty(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.note("test", {"accuracy": 0.5})
    (tmp_path / "broken.json").write_text("{")
    assert (ledger.noted("test"), ledger.noted("none"), ledger.noted("broken")) == ({"accuracy": 0.5}, {}, {})


def test_a_result_written_before_examples_had_a_name_is_still_read(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.write(FULL)
    file = ledger.trial_folder(3) / "result.json"
    raw = json.loads(file.read_text())
    del (
        raw["digest"],
        raw["run"],
        raw["examples"],
        raw["spec"]["data"]["eval_max_length"],
        raw["spec"]["data"]["templates"],
    )
    del raw["spec"]["eval"]["rung_start"], raw["spec"]["eval"]["end_token"]
    del raw["spec"]["eval"]["probes"][0]["end_token"]
    file.write_text(json.dumps(raw))
    assert reopened(ledger).results == {3: FULL}


def test_a_checkpoint_beside_a_result_is_deleted(tmp_path: Path) -> None:
    """A driver may be killed between the two; a finished trial is not resumed."""
    ledger = Ledger(tmp_path)
    file = ledger.trial_folder(0) / CHECKPOINT
    file.parent.mkdir(parents=True)
    file.write_text("x")
    ledger.write(result(0))
    assert not file.exists()
    file.write_text("x")
    reopened(ledger)
    assert not file.exists()


def test_a_holder_signs_with_its_name(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, owner="process 8 on box")
    with pytest.raises(AlreadyRunning, match="is in use by process 8 on box"):
        Ledger(tmp_path)
    assert reopened(ledger).noted("owner") == {}
