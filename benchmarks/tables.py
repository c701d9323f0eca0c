"""What the timing benchmarks share: a command line, a JSON file that grows case by case, and a Markdown table."""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.machine import describe_machine

T = TypeVar("T")
# What every comparison with stock PEFT shows of a case.
AGREEMENT: dict[str, Callable[[dict[str, Any]], object]] = {
    "of GEMM rate": lambda r: f"{r['share_of_gemm_rate']:.0%}",
    "max Δloss": lambda r: f"{r['loss_gap']:.1g}",
}


def command_line(doc: str | None, script: str) -> argparse.ArgumentParser:
    """Return a parser that knows where the figures go: beside the script, unless told otherwise."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(script).with_suffix(".json"))
    return parser


def write(out: Path, **facts: object) -> None:
    """Write the figures there are so far, with the machine that they are of."""
    out.write_text(json.dumps({"machine": describe_machine(), **facts}, indent=1) + "\n", encoding="utf-8")


def markdown(columns: Mapping[str, Callable[[T], object]], rows: Sequence[T], *, num_words: int = 1) -> str:
    """Return a Markdown table; behind the first `num_words` columns come figures, which stand on the right."""
    rules = ["---" if i < num_words else "--:" for i in range(len(columns))]
    lines = [list(columns), rules, *([str(cell(row)) for cell in columns.values()] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
