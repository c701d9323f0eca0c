"""A policy that is replayed on a full sweep's curves does what it does in a sweep."""

from pathlib import Path

from benchmarks.curves import DENSE, Sweep, complete
from benchmarks.replay import Policy, replay
from lorasweep.cli import main
from lorasweep.driver.ledger import Ledger

LINE = (
    "train.learning_rate=1e-2,5e-3,2e-3,1e-4,5e-5,1e-5", f"train.max_steps={DENSE}", "train.warmup_steps=0",
    "eval.metrics=[]", "eval.num_samples=0", "eval.rung_limit=16", "data.train=demo:intents/train.csv[:40]",
    "data.test=null", "data.validation=demo:intents/validation.csv[:24]", "probes=none",
    "tracking=none", "study.sampler=grid",
)  # fmt: skip


def test_a_replay_stops_what_the_sweep_itself_stops(in_tmp: Path) -> None:
    assert main([*LINE, "study.pruner=none", f"eval.rungs={DENSE}", "output_dir=full"]) == 0
    assert main([*LINE, "study.pruner=losers", "eval.rungs=5", "eval.rung_factor=2", "output_dir=pruned"]) == 0
    sweep = Sweep(task="intents", seed=0, results=complete(in_tmp / "full"))
    (run,) = (in_tmp / "pruned").glob("*/")
    real = [result.cost for result in Ledger(run).results.values()]

    nothing = replay(Policy(pruner="none", rungs=4), sweep, is_bank=True)
    assert (nothing.saved, nothing.regret, nothing.is_winner_lost, nothing.rules) == (0, 0, False, ())
    outcome = replay(Policy(pruner="losers", rungs=5, rung_factor=2.0), sweep, is_bank=True)
    assert outcome.saved == 1 - sum(c.num_steps for c in real) / sum(c.num_planned_steps for c in real) > 0
    assert len(outcome.rules) == sum(c.num_steps < c.num_planned_steps for c in real)
