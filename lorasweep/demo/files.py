"""Write the demo's data files; the same bytes every time."""

import csv
import json
from collections.abc import Iterable
from pathlib import Path

from lorasweep.demo import answers, intents, skills
from lorasweep.demo.rows import Choice, Instructed, Labelled, as_record


def write_data(folder: Path) -> None:
    for split, labelled in intents.splits().items():
        _write_csv(folder / "intents" / f"{split}.csv", labelled)
    for split, instructed in answers.splits().items():
        _write_jsonl(folder / "answers" / f"{split}.jsonl", instructed)
    for skill in skills.SKILLS:
        _write_jsonl(folder / "probes" / f"{skill}.jsonl", skills.split(skill)[1])


def _write_csv(path: Path, rows: Iterable[Labelled]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("text", "label"))
        writer.writerows((row.text, row.label) for row in rows)


def _write_jsonl(path: Path, rows: Iterable[Choice | Instructed]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(as_record(row)) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8", newline="\n")
