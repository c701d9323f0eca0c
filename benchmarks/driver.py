"""How many trials per second can the driver ask for and record, and how does the rate change with their number?

    python -m benchmarks.driver [--trials 10000] [--seconds 60]

Workers are fake: each trial reports at one rung and ends at once. Study, ledger and tracker are real. Each of three
sides takes up to `--seconds`; the side with MLflow also waits until the tracker has all results (the last column).
"""

import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.output import command_line, write
from lorasweep.config.compose import compose
from lorasweep.config.folders import data_dir
from lorasweep.core.messages import Finished, SweepEvent
from lorasweep.driver.driver import Driver
from lorasweep.driver.ledger import Ledger
from lorasweep.planning.make import make_plan
from lorasweep.testing import fake_driver, tracking_queue
from lorasweep.tracking.mlflow import MlflowTracker

SIDES = (("random", "none"), ("tpe", "none"), ("random", "mlflow"))  # sampler, tracking


class Clock:
    """Records when each trial ended, and stops the driver after some seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.began_s, self.ended_s = time.perf_counter(), list[float]()
        self.driver: Driver | None = None

    def handle(self, event: SweepEvent) -> None:
        if not isinstance(event, Finished):
            return
        self.ended_s.append(time.perf_counter() - self.began_s)
        if self.ended_s[-1] > self.seconds and self.driver is not None:
            self.driver.stop()


def measure(sampler: str, backend: str, trials: int, seconds: float) -> dict[str, Any]:
    """Run one fake sweep and return its rates, in trials per second."""
    space = "train.learning_rate=tag(log,interval(1e-5,1e-1))"
    arguments = (space, f"study.sampler={sampler}", f"study.trials={trials}", "probes=none", "data.test=null")
    raw, _ = compose(arguments, data_dir("conf"), data_dir("sweeps"))
    assert raw is not None
    plan = make_plan(raw)
    with tempfile.TemporaryDirectory() as name:
        settings = type(plan.config.tracking)(uri=f"sqlite:///{name}/mlflow.db")
        ledger, clock = Ledger(Path(name) / "run"), Clock(seconds)
        queue = None if backend == "none" else tracking_queue(MlflowTracker(settings, "fake", name), ledger)
        driver = clock.driver = fake_driver(plan, ledger, clock, *([queue] if queue else []))
        clock.began_s = time.perf_counter()
        driver.run()
        left = queue.close() if queue else 0
        told_s = time.perf_counter() - clock.began_s
        assert not left, f"the tracker lacks {left} results"
        driver.ledger.close()
    ended, tenth = clock.ended_s, max(1, len(clock.ended_s) // 10)
    return {
        "sampler": sampler, "tracking": backend, "num_trials": len(ended), "seconds": ended[-1],
        "per_s": len(ended) / ended[-1], "first_tenth_per_s": tenth / ended[tenth - 1],
        "last_tenth_per_s": tenth / (ended[-1] - ended[-1 - tenth]), "tracked_per_s": len(ended) / told_s,
    }  # fmt: skip


def main() -> None:
    parser = command_line(__doc__, __file__)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=60.0)
    args = parser.parse_args()
    print(write(args.out, {"cases": [measure(*side, args.trials, args.seconds) for side in SIDES]}))


if __name__ == "__main__":
    main()
