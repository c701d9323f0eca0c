"""The output of every benchmark: tables in Markdown, and the same figures with the machine as JSON."""

import argparse
import json
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import psutil
import torch

from lorasweep.core.provenance import provenance
from lorasweep.devices.cpu import num_cores

Row = Mapping[str, object]


def command_line(doc: str | None, script: str) -> argparse.ArgumentParser:
    """Return a parser with `--out`, the JSON file; by default in the folder of the script."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(script).with_suffix(".json"))
    return parser


def markdown(rows: Sequence[Row]) -> str:
    """Return a Markdown table of rows with equal keys; figures are aligned right and have three digits."""
    rules = ["---" if isinstance(value, str) else "--:" for value in rows[0].values()]
    lines = [list(rows[0]), rules, *([_cell(value) for value in row.values()] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return str(value)


def write(out: Path, tables: Mapping[str, Sequence[Row]], note: str = "", **facts: object) -> str:
    """Write tables, machine and facts as JSON to `out`, and the tables as Markdown to the same folder; return these."""
    parts = {"machine": machine(), **facts, **{name: list(rows) for name, rows in tables.items()}}
    lines = [f"{json.dumps(name)}: {_lines(part)}" for name, part in parts.items()]
    out.write_text("{" + ",\n".join(lines) + "}\n", encoding="utf-8")
    text = "\n\n".join([*([note] if note else []), *(markdown(rows) for rows in tables.values() if rows)])
    out.with_suffix(".md").write_text(text + "\n", encoding="utf-8")
    return text


def _lines(fact: object) -> str:
    return "[\n" + ",\n".join(map(json.dumps, fact)) + "\n]" if isinstance(fact, list) else json.dumps(fact)


def machine() -> dict[str, object]:
    """Describe the machine; a load average above the benchmark's own threads means that it is busy."""
    return {
        "cpu": cpu_name(), "cores": num_cores(), "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "torch_threads": torch.get_num_threads(), "load_average": round(psutil.getloadavg()[0], 2),
        "date": datetime.now(UTC).isoformat(timespec="seconds"), **provenance(),
    }  # fmt: skip


def cpu_name() -> str:
    """Return the processor's name."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()
