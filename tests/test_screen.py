"""What a sweep shows and keeps: notes, the verdict, addresses, and what an interruption saved."""

import json
from pathlib import Path

import pytest

from lorasweep.cli import main

LONG = ("data=classification", "data.train=a.csv", "data.max_length=32", "train.max_steps=2", "probes=none")


def write_long_rows() -> None:
    """Write rows of which every fourth is too long."""
    rows = [f"{'say ' * (90 if i % 4 == 0 else 1)}{i},{'yes' if i % 2 else 'no'}" for i in range(40)]
    Path("a.csv").write_text("text,label\n" + "\n".join(rows))


def test_notes_of_data_and_workers_reach_every_report(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_long_rows()
    assert main([*LONG, "tracking=none"]) == 0
    (file,) = in_tmp.glob("runs/*/leaderboard.json")
    notes = [note for note in json.loads(file.read_text())["notes"] if note.startswith("data.train: ")]
    assert len(notes) == 1
    assert notes[0] in file.with_suffix(".md").read_text() and notes[0] in file.with_suffix(".html").read_text()
    assert f"Note: {notes[0]}" in " ".join(capsys.readouterr().out.split())


def test_what_a_worker_noted_is_still_said_when_nothing_is_left_to_train(in_tmp: Path) -> None:
    write_long_rows()
    assert main([*LONG, "tracking=none"]) == 0
    (file,) = in_tmp.glob("runs/*/notes.json")
    kept = json.loads(file.read_text())["notes"]
    file.write_text(json.dumps({"notes": [*kept, "demo: each row is a pass of its own"]}))
    assert main([*LONG, "tracking=none"]) == 0
    assert "demo: each row is a pass of its own" in file.with_name("leaderboard.md").read_text()
