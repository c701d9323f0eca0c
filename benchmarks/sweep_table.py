"""Tell what the recorded runs say: medians, ratios per seed, and whether pruning kept the winner."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.sweep_sides import SIDES
from evaluation.statistics import paired_difference

Run = Mapping[str, Any]
# Each ratio's sides; of several forms of a baseline the fastest is compared.
RATIOS = {
    "(a)/(L)": (("a", "a1", "a2"), "L"),
    "(a)/(P)": (("a", "a1", "a2"), "P"),
    "(b)/(L)": (("b", "b1"), "L"),
    "(c)/(P)": (("c", "c1"), "P"),
    "(L)/(P)": (("L",), "P"),
}
CLOSE = 0.01  # of the full run's loss


def table(runs: Sequence[Run]) -> str:
    """Return the whole report of runs of one job."""
    blocks = ["\n".join(_time_lines(runs)), "\n".join(_ratio_lines(runs)), "\n".join(_winner_lines(runs))]
    return "\n\n".join(block for block in blocks if block)


def _seconds(runs: Sequence[Run], side: str) -> dict[int, float]:
    """Return wall seconds by seed."""
    return {run["seed"]: run["wall_s"] for run in runs if run["side"] == side}


def _time_lines(runs: Sequence[Run]) -> list[str]:
    lines = [f"{'side':4} {'seeds':>5} {'median s':>9} {'range':>15} {'best accuracy':>14}"]
    for name, side in SIDES.items():
        seconds = sorted(_seconds(runs, name).values())
        if seconds:
            spread = f"{seconds[0]:.1f}-{seconds[-1]:.1f}"
            best = median(_best(run) for run in runs if run["side"] == name)
            lines.append(f"{name:4} {len(seconds):5} {median(seconds):9.1f} {spread:>15} {best:14.3f}  {side.title}")
    return lines


def _best(run: Run) -> float:
    return max((trial["metrics"].get("accuracy") or 0.0) for trial in run["trials"])


def _ratio_lines(runs: Sequence[Run]) -> list[str]:
    lines = []
    for name, (slow, fast) in RATIOS.items():
        measured = [side for side in slow if _seconds(runs, side)]
        if not measured or not _seconds(runs, fast):
            continue
        # The strongest form of a baseline is the one whose median is least.
        side = min(measured, key=lambda form: median(_seconds(runs, form).values()))
        lines.append(_ratio_line(name, side, _seconds(runs, side), _seconds(runs, fast)))
    return lines


def _ratio_line(name: str, side: str, slow: Mapping[int, float], fast: Mapping[int, float]) -> str:
    ratios = sorted(slow[seed] / fast[seed] for seed in slow.keys() & fast.keys())
    if not ratios:
        return f"{name}: no seed was run on both sides"
    spread = f" ({ratios[0]:.2f}-{ratios[-1]:.2f})" if len(ratios) > 1 else ""
    return f"{name} = {median(ratios):.2f}{spread}, {len(ratios)} seed{'s' * (len(ratios) > 1)}, baseline run as {side}"


def _winner_lines(runs: Sequence[Run]) -> list[str]:
    by_seed = {side: {run["seed"]: run for run in runs if run["side"] == side} for side in ("L", "P")}
    seeds = sorted(by_seed["L"].keys() & by_seed["P"].keys())
    return [f"seed {seed}: {compare_winners(by_seed['L'][seed], by_seed['P'][seed])}" for seed in seeds]


def compare_winners(full: Run, pruned: Run) -> str:
    """Say whether the pruned sweep chose what the full one chose, or something as good."""
    best, kept = winner(full), winner(pruned)
    num_steps = max(trial["step"] for trial in full["trials"])
    share = sum(trial["step"] for trial in pruned["trials"]) / (num_steps * len(full["trials"]))
    work = f"{share:.0%} of the steps"
    if best["fingerprint"] == kept["fingerprint"]:
        return f"the pruned sweep's winner is the full run's, trial {best['number']}; {work}"
    loss, own = best["metrics"]["loss"], kept["metrics"]["loss"]
    difference = paired_difference(best["scores"], kept["scores"])
    facts = [
        f"loss {own:.4f} instead of {loss:.4f} ({'within' if own <= loss * (1 + CLOSE) else 'not within'} 1 %)",
        f"{'tied' if difference.low <= 0 else 'not tied'}: objective lower by {difference.value:.3f} "
        f"(95 % {difference.low:.3f} to {difference.high:.3f})",
    ]
    return f"winner {_named(kept)} instead of {_named(best)}; {'; '.join(facts)}; {work}"


def _named(trial: Mapping[str, Any]) -> str:
    params = " ".join(f"{key.split('.')[-1]}={value}" for key, value in trial["params"].items())
    return f"trial {trial['number']} ({params})"


def winner(run: Run) -> Mapping[str, Any]:
    """Return the complete trial of the best accuracy (least loss where none is measured), as the leaderboard ranks."""
    complete = [t for t in run["trials"] if t["state"] == "complete" and t["metrics"].get("loss") is not None]
    ranked: Sequence[Mapping[str, Any]] = sorted(complete, key=_rank)
    return ranked[0]


def _rank(trial: Mapping[str, Any]) -> tuple[float, float]:
    accuracy = trial["metrics"].get("accuracy")
    return (-accuracy if accuracy is not None else 0.0, trial["metrics"]["loss"])
