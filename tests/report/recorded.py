"""The result of a real trial, which the report tests start from.

`result.json` was written by `python -m tests.report.recorded`; run it again when the fields of a result change.
"""

import json
import tempfile
from dataclasses import replace
from pathlib import Path

from lorasweep.cli import main
from lorasweep.core.files import write_json
from lorasweep.core.result import TrialResult
from lorasweep.driver.stored import from_json, to_json

FILE = Path(__file__).with_name("result.json")
NAME = "recorded"  # in place of the id of the run
SWEEP = (
    "lora.r=4,8", "train.max_steps=20", "eval.rungs=2", "eval.num_samples=2", "data.test=null", "workers=1",
    "data.train=demo:intents/train.csv[:120]", "data.validation=demo:intents/validation.csv[:30]", "tracking=none",
)  # fmt: skip


def trained(folder: Path) -> TrialResult:
    """Run the sweep in a folder and return the result of its trial with r=8."""
    assert main([*SWEEP, f"output_dir={folder}/runs"]) == 0
    (file,) = folder.glob("runs/*/trials/0001/result.json")
    raw = json.loads(file.read_text(encoding="utf-8"))
    return from_json(raw, raw["run"], 1)


def recorded() -> TrialResult:
    """Return the recorded result; its digest refuses edits by hand."""
    return from_json(json.loads(FILE.read_text(encoding="utf-8")), NAME, 1)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        found = trained(Path(folder))
    elsewhere = {**found.provenance, "commit": "none", "platform": "Linux"}
    write_json(FILE, to_json(replace(found, provenance=elsewhere), NAME))
