"""How long does a whole sweep take, beside what people do today? 32 trials with training, scores, probes and MLflow.

    python -m benchmarks.sweep                                        every side once, on the demo
    python -m benchmarks.sweep --sides L,P,a2,b,c --seeds 5 --seeds-for a2=1
    python -m benchmarks.sweep --pruned study.pruner=median eval.rungs=4
    python -m benchmarks.sweep --set model.id=path data=classification data.train=train.csv train.max_steps=160
    python -m benchmarks.sweep --table                                what has been recorded

Sides are whole processes, interleaved by seed, in an order that turns with the seed: see `sweep_sides.SIDES`. Side (a)
takes its time; give it fewer seeds, and the table says how many each ratio rests on. Every run is recorded when it
ends, and a later call goes on, whatever changed in the code meanwhile: after a change, take another --output.

Before the first run `honesty.py` shows that all do the same work. The winner's score on the test split and the
leaderboard are made by lorasweep alone, within its time. Timed runs begin from each library's own random adapters and
order of rows, so their scores differ as seeds do.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine
from benchmarks.sweep_job import SIZES, axes_of, make_job
from benchmarks.sweep_sides import SIDES, time_side
from benchmarks.sweep_table import table
from lorasweep.core.files import write_text
from lorasweep.core.provenance import commit

RECORD = Path(__file__).with_suffix(".json")


def main() -> None:
    """Run what is wanted and not recorded yet, and print the table."""
    arguments = parse()
    keys = set()
    for seed, side in schedule(arguments.sides, arguments.seeds, arguments.seeds_for):
        job = make_job(axes_of(arguments.trials, arguments.set), seed, arguments.set)
        keys.add(job.key)
        facts: dict[str, Any] = {"key": job.key, "seed": seed, "side": side, "args": args_of(side, arguments)}
        runs = read(arguments.output)
        if is_recorded(runs, facts) or arguments.table:
            continue
        with tempfile.TemporaryDirectory(prefix="sweep-", dir=arguments.work) as folder:
            if arguments.check_steps and not any(r["key"] == job.key and r.get("honesty") for r in runs):
                facts["honesty"] = honesty(Path(folder) / "check", arguments)
            print(f"seed {seed}, side {side}: {SIDES[side].title}, {len(job.specs)} trials ...", flush=True)
            result = time_side(side, job, Path(folder) / "run", facts["args"])
        print(f"seed {seed}, side {side}: {result['wall_s']:.1f} s", flush=True)
        record = {**facts, "overrides": job.overrides, "commit": commit(), "machine": describe_machine(), **result}
        write(arguments.output, [*read(arguments.output), record])
    print(table([r for r in read(arguments.output) if r["key"] in keys and is_wanted(r, arguments)]))


def parse() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=lambda text: text.split(","), default=["L", "P", "a", "a2", "b", "c"])
    parser.add_argument("--seeds", type=int, default=1, help="seeds 0, 1, ... of every side")
    parser.add_argument("--seeds-for", nargs="+", default=[], metavar="SIDE=N", help="fewer seeds of a slow side")
    parser.add_argument("--trials", type=int, default=32, choices=SIZES)
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="overrides, in lorasweep's own words")
    parser.add_argument("--pruned", nargs="+", default=["study.pruner=median"], metavar="KEY=VALUE", help="of side P")
    parser.add_argument("--reduction-factor", type=int, default=4, help="of ASHA in side c; 4 is Ray's default")
    parser.add_argument("--check-steps", type=int, default=40, help="compared before the first run; 0: none")
    parser.add_argument("--output", type=Path, default=RECORD)
    parser.add_argument("--work", type=Path, help="where runs keep their files; by default the system's own place")
    parser.add_argument("--table", action="store_true", help="run nothing")
    arguments = parser.parse_args()
    if unknown := [side for side in arguments.sides if side not in SIDES]:
        parser.error(f"--sides: {', '.join(unknown)}; there are {', '.join(SIDES)}")
    return arguments


def schedule(sides: Sequence[str], seeds: int, seeds_for: Sequence[str]) -> list[tuple[int, str]]:
    """Return (seed, side) in the order of running: every seed starts with another side, so that drift hits all."""
    limits = {side: int(count) for side, count in (text.split("=") for text in seeds_for)}
    return [
        (seed, side)
        for seed in range(max([seeds, *limits.values()]))
        for side in [*sides[seed % len(sides) :], *sides[: seed % len(sides)]]
        if seed < limits.get(side, seeds)
    ]


def args_of(side: str, arguments: argparse.Namespace) -> list[str]:
    """Return what belongs to this side alone."""
    if side == "P":
        return list(arguments.pruned)
    return [f"--reduction-factor={arguments.reduction_factor}"] if side.startswith("c") else []


def honesty(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Compare both sides step by step; what is found is recorded with the run that follows."""
    from benchmarks.honesty import check_honesty

    found = asdict(check_honesty(folder, arguments.set, steps=arguments.check_steps))
    print(f"both sides do the same work: {found}", flush=True)
    return found


def read(file: Path) -> list[dict[str, Any]]:
    """Return the recorded runs."""
    runs: list[dict[str, Any]] = json.loads(file.read_text())["runs"] if file.is_file() else []
    return runs


def write(file: Path, runs: Sequence[Mapping[str, Any]]) -> None:
    """Record runs, one line each."""
    lines = ",\n".join(json.dumps(run) for run in runs)
    write_text(file, f'{{"runs": [\n{lines}\n]}}\n')


def is_recorded(runs: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> bool:
    return any(all(run[name] == facts[name] for name in ("key", "seed", "side", "args")) for run in runs)


def is_wanted(run: Mapping[str, Any], arguments: argparse.Namespace) -> bool:
    return run["side"] in arguments.sides and run["args"] == args_of(run["side"], arguments)


if __name__ == "__main__":
    main()
