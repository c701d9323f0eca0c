"""What does stopping poor trials early save, and which winners does it cost?

    python -m benchmarks.pruning [--seeds 5] [--task data=classification data.train=train.csv model.id=path ...]

Full sweeps are recorded with dense rungs; every policy is then replayed on their curves by the pruners of a real sweep.
The two demo tasks take two minutes per seed on two cores. Sweeps already in `--folder` are reused. A first small sweep
checks that a replay stops the same trials as the sweep itself; `--seeds 0` runs only this check, in a minute.

The third task of pruning.md is BANKING77 with `data.max_length=64 model.dtype=bf16 eval.objective=loss lora.r=4,16
lora.lora_alpha=2r lora.target_modules=mlp,all-linear train.learning_rate=1e-3,3e-3,1e-2 train.max_steps=80
train.warmup_steps=0.1 eval.rung_limit=64`.
"""

import random
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean

import optuna

from benchmarks.output import command_line, write
from evaluation.metrics import METRICS
from evaluation.statistics import wilson_interval
from evaluation.ties import tied_with_best
from lorasweep.cli import main as run_sweep
from lorasweep.config.settings import Pruner, StudySettings
from lorasweep.core.result import TrialResult, TrialState
from lorasweep.core.rungs import rung_steps
from lorasweep.driver.ledger import Ledger
from lorasweep.study.pruners import make_pruner, prune_decisions, report, reports_of
from lorasweep.study.rules import RungReport

DENSE = 16  # rungs per trial: each policy uses some of them
CLOSE = 0.01  # relative difference in validation loss up to which a winner is as good as the full sweep's
COMMON = ("eval.metrics=[]", "eval.num_samples=0", "data.test=null", "probes=none", "tracking=none",
          "study.sampler=grid")  # fmt: skip
FULL = (f"eval.rungs={DENSE}", "eval.rung_factor=1", "study.pruner=none")
TASKS = {
    # The shipped sweep: its trials are close to each other, so that a winner is easily lost.
    "intents, accuracy": ("model=demo", "+sweep=rank_alpha", "data=demo_intents", "eval.rung_limit=64"),
    # Answers are generated at every rung, which is slow: fewer examples.
    "answers, rougeL": ("model=demo", "data=demo_answers", "eval.rung_limit=32", "lora.r=4,16", "lora.lora_alpha=2r",
                        "train.learning_rate=3e-3,1e-2,3e-2", "lora.target_modules=qv,all-linear"),
}  # fmt: skip
CHECK = ("train.learning_rate=1e-2,5e-3,2e-3,1e-4,5e-5,1e-5", f"train.max_steps={DENSE}", "train.warmup_steps=0",
         "data.train=demo:intents/train.csv[:40]", "data.validation=demo:intents/validation.csv[:24]",
         "eval.rung_limit=16")  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A pruner with the rungs at which it stops trials."""

    pruner: Pruner
    rungs: int
    rung_factor: float = 1.0
    reduction_factor: int = 2

    @property
    def places(self) -> tuple[int, ...]:
        """Return the dense rungs of this policy, without the end."""
        return rung_steps(DENSE, self.rungs, self.rung_factor)[:-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The effect of a policy on one sweep; a regret of 0.02 is an objective worse by 0.02."""

    is_winner_lost: bool
    is_as_good: bool
    regret: float
    saved: float  # share of the steps
    num_stopped: int


EVEN, GEOMETRIC, SPARSE = (4, 1.0), (5, 2.0), (3, 4.0)
OPTUNA: tuple[Pruner, ...] = ("median", "percentile", "successive_halving", "hyperband")
POLICIES = (
    Policy(pruner="none", rungs=4),
    *(Policy(pruner=p, rungs=rungs, rung_factor=f) for p in OPTUNA for rungs, f in (EVEN, GEOMETRIC)),
    *(Policy(pruner="rules", rungs=rungs, rung_factor=f, reduction_factor=share)
      for share in (2, 3) for rungs, f in (EVEN, GEOMETRIC, SPARSE)),
)  # fmt: skip


def swept(line: Sequence[str], folder: Path) -> list[TrialResult]:
    """Run or continue a sweep and return its trials; an interrupted sweep ends the benchmark."""
    if code := run_sweep([*line, f"output_dir={folder}"]):
        raise SystemExit(code)
    (run,) = folder.glob("*/")
    ledger = Ledger(run)
    ledger.close()
    return [r for r in ledger.results.values() if r.same_as is None]


def full_sweep(line: Sequence[str], folder: Path) -> list[TrialResult]:
    return [r for r in swept([*line, *COMMON, *FULL], folder) if r.state is TrialState.COMPLETE]


def replay(policy: Policy, results: Sequence[TrialResult], seed: int, *, is_bank: bool) -> Outcome:
    """Prune a sweep whose trials reach each rung together, as in a bank, or run one after another."""
    maximize = METRICS[results[0].spec.eval.objective].is_maximized
    pruner = make_pruner(StudySettings(pruner=policy.pruner, reduction_factor=policy.reduction_factor), policy.rungs)
    study = optuna.create_study(
        study_name="sweep",  # hyperband draws its brackets by name
        direction="maximize" if maximize else "minimize",
        pruner=pruner,
    )
    order = random.Random(seed).sample(results, len(results))  # the order of a grid is not random
    waves = [list(results)] if is_bank else [[result] for result in order]
    ends = {number: end for wave in waves for number, end in _run(study, wave, policy)}
    rank = partial(_rank, maximize=maximize)
    best = min(results, key=rank)
    found = min((r for r in results if ends[r.number] == DENSE), key=rank)  # every policy lets some trial end
    ties = tied_with_best({r.number: r.scores for r in results}, maximize=maximize) | {best.number}
    is_close = found.metrics["loss"] <= best.metrics["loss"] * (1 + CLOSE)
    share = sum(ends.values()) / (DENSE * len(results))
    return Outcome(
        is_winner_lost=found.number != best.number, is_as_good=is_close or found.number in ties,
        regret=abs((best.objective or 0.0) - (found.objective or 0.0)),
        saved=(1 - results[0].spec.eval.rung_start) * (1 - share), num_stopped=sum(e < DENSE for e in ends.values()),
    )  # fmt: skip


def _rank(result: TrialResult, *, maximize: bool) -> tuple[float, int, int]:
    return (-1 if maximize else 1) * (result.objective or 0.0), result.cost.trainable_parameters, result.number


def _run(study: optuna.Study, wave: Sequence[TrialResult], policy: Policy) -> Iterator[tuple[int, int]]:
    """Yield each trial's number with the dense rung at which it ended."""
    live = {study.ask(): result for result in wave}
    for rung, place in enumerate(policy.places, 1):
        for trial, result in live.items():
            report(study, trial, _at(result, place, rung))
        found = prune_decisions(study, {trial.number: rung for trial in live})
        for trial in [trial for trial in live if trial.number in found]:
            yield live.pop(trial).number, place
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    for trial, result in live.items():
        yield result.number, DENSE
        study.tell(trial, result.objective)


def _at(result: TrialResult, place: int, rung: int) -> RungReport:
    """Return a trial's report at a dense rung, numbered as rung of the policy."""
    # Dense rungs of a short trial may share a step, which is reported as the last of them.
    return replace(next(one for one in reports_of(result) if one.rung >= place), rung=rung)


def check(folder: Path) -> None:
    """Assert that a replay stops as many trials, after as many steps, as the sweep itself."""
    line = (*CHECK, *COMMON, "study.pruner=rules", "eval.rungs=5", "eval.rung_factor=2")
    costs = [result.cost for result in swept(line, folder / "check-pruned")]
    policy = Policy(pruner="rules", rungs=5, rung_factor=2.0)
    outcome = replay(policy, full_sweep(CHECK, folder / "check-full"), 0, is_bank=True)
    assert outcome.saved == 1 - sum(c.num_steps for c in costs) / sum(c.num_planned_steps for c in costs) > 0, outcome
    assert outcome.num_stopped == sum(c.num_steps < c.num_planned_steps for c in costs), outcome


def summary(outcomes: Sequence[Outcome]) -> dict[str, object]:
    """Return means, and frequencies with their 95 % Wilson intervals."""
    found: dict[str, object] = {"saved": mean(o.saved for o in outcomes), "regret": mean(o.regret for o in outcomes)}
    for name, hits in (("lost", [o.is_winner_lost for o in outcomes]), ("as good", [o.is_as_good for o in outcomes])):
        interval = wilson_interval(sum(hits), len(hits))
        found[name] = f"{sum(hits)}/{len(hits)} ({interval.low:.2f}\N{EN DASH}{interval.high:.2f})"
    return found


NOTE = f"""As good: within {CLOSE:.0%} of the full winner in validation loss, or tied with it on the validation
examples. Regret: by how much the winner's objective is worse. In brackets: 95 % Wilson intervals; they count sweeps as
independent and are too narrow, because seeds of one task are similar. Rungs: shares of the steps after warm-up."""


def main() -> None:
    parser = command_line(__doc__, __file__)
    parser.add_argument("--task", nargs="+", metavar="KEY=VALUE", help="the settings of a third task")
    parser.add_argument("--seeds", type=int, default=5, help="0: only the check")
    parser.add_argument("--folder", type=Path, default=Path("runs/pruning"), help="where sweeps are recorded")
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    check(args.folder)
    print("a replay stops as many trials, after as many steps, as the sweep itself")
    tasks = dict(TASKS)
    if args.task:
        tasks["own"] = tuple(args.task)
    sweeps = [
        (name, seed, full_sweep((*line, f"train.seed={seed}"), args.folder / f"{name.split(',')[0]}-{seed}"))
        for seed in range(args.seeds) for name, line in tasks.items()
    ]  # fmt: skip
    if not sweeps:
        return
    rows: list[dict[str, object]] = []
    for policy, is_bank in [(policy, is_bank) for policy in POLICIES for is_bank in (True, False)]:
        found = [(name, replay(policy, results, seed, is_bank=is_bank)) for name, seed, results in sweeps]
        rungs = ", ".join(f"{100 * place / DENSE:.0f}" for place in policy.places) + " %"
        pruner = f"{policy.pruner} 1/{policy.reduction_factor}" if policy.pruner == "rules" else policy.pruner
        row = {"pruner": pruner, "rungs": rungs, "trials come": "together" if is_bank else "one by one"}
        rows.append(row | summary([outcome for _, outcome in found]))
        for task in tasks:
            of_task = summary([outcome for name, outcome in found if name == task])
            rows[-1] |= {f"{task}: {name}": of_task[name] for name in ("saved", "lost", "regret")}
    print(write(args.out, {"policies": rows}, NOTE, num_sweeps=len(sweeps)))


if __name__ == "__main__":
    main()
