"""Predicted against measured peak memory, over a grid of bases, batches, ranks and precisions.

    python -m benchmarks.memory [--out benchmarks/memory.json] [--case NAME ...]

Every point is measured in a fresh process: on a CPU the peak of resident memory above what it was before the base was
loaded; with a GPU the peak that PyTorch's allocator counts. Random bases of a few Llama shapes are made aside.
"""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.memory_cases import Case, cases, save
from benchmarks.tables import command_line, write

ONE_THREAD = {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "1000"}
ROOT = Path(__file__).resolve().parent.parent
MIB = 1 << 20
GOAL = {"cpu": 0.15, "cuda": 0.05}


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A case with what was predicted and what was measured, in bytes."""

    case: str
    device: str
    weights: int
    predicted: int
    measured: int

    @property
    def error(self) -> float:
        return self.predicted / self.measured - 1


def measure(case: Case, folder: Path) -> Point:
    """Measure a case in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.memory_point", json.dumps(asdict(case)), str(folder)]
    environment = {**os.environ, **ONE_THREAD, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{case.name}: {done.stderr}")
    return Point(**json.loads(done.stdout.splitlines()[-1]))


def save_bases(folder: Path, chosen: list[Case]) -> None:
    """Make the random bases that these cases need, in bf16."""
    names = sorted({case.base for case in chosen} - {"demo"})
    for name in names:
        save(folder, name)


def table(points: list[Point]) -> str:
    """Return the prediction-error table."""
    lines = [f"{'case':38} {'weights':>9} {'predicted':>10} {'measured':>9} {'error':>8}   MiB"]
    for p in points:
        sizes = f"{p.weights / MIB:9.0f} {p.predicted / MIB:10.0f} {p.measured / MIB:9.0f}"
        lines.append(f"{p.case:38} {sizes} {p.error:+8.1%}")
    return "\n".join([*lines, summary(points)])


def summary(points: list[Point]) -> str:
    """Return how far off the predictions are."""
    errors = sorted(abs(p.error) for p in points)
    goal = GOAL[points[0].device]
    within = sum(e <= goal for e in errors)
    return (
        f"{points[0].device}: median error {median(errors):.1%}, worst {errors[-1]:.1%}; "
        f"{within} of {len(errors)} within {goal:.0%}"
    )


def main() -> None:
    """Measure the grid, write it and print it."""
    parser = command_line(__doc__, __file__)
    parser.add_argument("--case", nargs="*", default=[])
    arguments = parser.parse_args()
    chosen = [case for case in cases() if not arguments.case or case.name in arguments.case]
    with tempfile.TemporaryDirectory() as folder:
        save_bases(Path(folder), chosen)
        points = []
        for case in chosen:
            points.append(measure(case, Path(folder)))
            print(table(points[-1:]).splitlines()[1], flush=True)
    rows: list[dict[str, Any]] = [{**asdict(p), "error": round(p.error, 4)} for p in points]
    write(arguments.out, points=rows)
    print(table(points))


if __name__ == "__main__":
    main()
