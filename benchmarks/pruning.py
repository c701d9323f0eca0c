"""What does stopping losers early save, and which winners does it cost?

    python -m benchmarks.pruning --model path/to/base --table path/to/texts_and_labels.csv

Full sweeps are recorded with dense rungs; every policy is then replayed on their curves by the pruners of a real sweep.
Without a base and a table of texts and labels, the two demo tasks remain. Writes pruning.json and pruning.md beside
this file; sweeps that were recorded in the folder before are read again.
"""

import argparse
import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any

import optuna

from benchmarks.curves import DENSE, Sweep, record, tasks
from benchmarks.machine import describe_machine
from benchmarks.replay import CLOSE, Outcome, Policy, replay
from evaluation.statistics import wilson_interval

HERE = Path(__file__).resolve().parent
EVEN, GEOMETRIC, SPARSE = (4, 1.0), (5, 2.0), (3, 4.0)
POLICIES = (
    Policy(pruner="none", rungs=4),
    *(
        Policy(pruner=pruner, rungs=rungs, rung_factor=factor)
        for pruner in ("median", "percentile", "successive_halving", "hyperband")
        for rungs, factor in (EVEN, GEOMETRIC)
    ),
    *(
        Policy(pruner="losers", rungs=rungs, rung_factor=factor, reduction_factor=share)
        for share in (2, 3)
        for rungs, factor in (EVEN, GEOMETRIC, SPARSE)
    ),
)


def measure(sweeps: Sequence[Sweep]) -> list[dict[str, Any]]:
    """Replay every policy on every sweep, with trials that come together and one after another."""
    rows = []
    for policy in POLICIES:
        for is_bank in (True, False):
            outcomes = [(sweep, replay(policy, sweep, is_bank=is_bank)) for sweep in sweeps]
            by_task = {
                task: summary([o for s, o in outcomes if s.task == task])
                for task in dict.fromkeys(s.task for s in sweeps)
            }
            rows.append({
                "policy": asdict(policy),
                "arrival": "together" if is_bank else "one by one",
                "all": summary([o for _, o in outcomes]),
                "tasks": by_task,
            })  # fmt: skip
    return rows


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return frequencies with their 95 % intervals, and means."""
    num, lost, good = len(outcomes), sum(o.is_winner_lost for o in outcomes), sum(o.is_as_good for o in outcomes)
    rules = [rule for outcome in outcomes for rule in outcome.rules]
    return {
        "num_sweeps": num,
        "winner_lost": lost,
        "winner_lost_interval": bounds(lost, num),
        "as_good": good,
        "as_good_interval": bounds(good, num),
        "regret": mean(o.regret for o in outcomes),
        "saved": mean(o.saved for o in outcomes),
        "stopped_by": {rule: rules.count(rule) for rule in sorted(set(rules))},
    }


def bounds(successes: int, total: int) -> list[float]:
    found = wilson_interval(successes, total)
    return [round(found.low, 4), round(found.high, 4)]


def to_markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Return a line per policy and arrival."""
    names = list(rows[0]["tasks"])
    head = ["pruner", "judged at", "trials come", "steps saved", "winner lost", "as good a winner",
            *(f"{name}: saved, lost, regret" for name in names)]  # fmt: skip
    lines = [head, ["---"] * len(head), *(_cells(row, names) for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cells(row: dict[str, Any], names: Sequence[str]) -> list[str]:
    policy, whole = Policy(**row["policy"]), row["all"]
    keeps = f" 1/{policy.reduction_factor}" if policy.pruner == "losers" else ""
    where = ", ".join(f"{100 * place / DENSE:.0f}" for place in policy.places) + " %"
    each = (row["tasks"][name] for name in names)
    return [
        f"{policy.pruner}{keeps}",
        where if policy.pruner != "none" else "",
        row["arrival"],
        percent(whole["saved"]),
        _frequency(whole, "winner_lost"),
        _frequency(whole, "as_good"),
        *(f"{percent(t['saved'])}, {t['winner_lost']}/{t['num_sweeps']}, {t['regret']:.3f}" for t in each),
    ]


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _frequency(whole: dict[str, Any], name: str) -> str:
    low, high = whole[f"{name}_interval"]
    return f"{whole[name]}/{whole['num_sweeps']} ({low:.2f}\N{EN DASH}{high:.2f})"


NOTE = (
    f"{{num}} full sweeps. As good: within {100 * CLOSE:g} % of the full winner "
    "in validation loss, or not to be told from it on the validation examples. Regret: by how much the winner's "
    "objective is worse. In brackets: 95 % Wilson intervals. The sweeps are a few tasks with several seeds each. "
    "Seeds of one task resemble each other, so the intervals, which count independent sweeps, are too narrow. Judged "
    "at: shares of the steps that follow the longest warm-up.\n"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="a base for the third task")
    parser.add_argument("--table", type=Path, help="a CSV of texts and labels for the third task")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("runs/pruning"), help="where sweeps are recorded")
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    sweeps = list(record(tasks(given.model, given.table, given.folder / "rows"), range(given.seeds), given.folder))
    rows = measure(sweeps)
    facts = {"machine": describe_machine(), "num_sweeps": len(sweeps), "policies": rows}
    (HERE / "pruning.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    table = to_markdown(rows) + "\n\n" + NOTE.format(num=len(sweeps))
    (HERE / "pruning.md").write_text(table, encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
