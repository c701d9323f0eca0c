"""Hold ties, intervals and optimism to their promises, in simulated sweeps.

Every simulated trial answers 160 examples, some easy and some hard for all; the seed makes a trial better or worse as a
whole, by as much as was measured over ten seeds of one real configuration. What is true is known, so every claim of the
reports can be checked: `python -m benchmarks.statistics` takes about half a minute.

Legend: K configurations, M seeds of each, N examples.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from benchmarks.tables import command_line, markdown, write
from evaluation.optimism import expected_optimism
from evaluation.seeds import crossed_interval
from evaluation.statistics import Interval, resampled_means, wilson_interval
from evaluation.ties import tied_with_best

Floats = NDArray[np.float64]
NORMAL = NormalDist()
NUM_EXAMPLES = 160
ACCURACY = 0.7
EASE_SD = 2.0  # of the examples, in units of the luck of a single answer
SEED_SD = 0.19  # in the same units: 0.037 of accuracy between seeds, as measured on real trials
FLIPS = 500
SPREAD = 0.3  # of the configurations in the same units, where they differ: 0.047 of accuracy
NUM_TRIALS = (6, 18)
HEADING = f"""# Ties, intervals and optimism in simulated sweeps

{NUM_EXAMPLES} validation examples, accuracy {ACCURACY}. First: sweeps of equal trials in which at least one is called
different from the winner. Equal adapters answer alike on average; equal settings are trained with seeds that differ by
0.04 of accuracy. Second: how often the 95 % interval of one configuration holds its accuracy over all examples and
seeds. Third: what the winner loses on fresh examples and seeds, and what the report expects. One seed cannot foretell
what other seeds do: no promise is made there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What simulated sweeps look like."""

    num_trials: int
    num_seeds: int = 1
    seed_sd: float = 0.0
    spread: float = 0.0

    @property
    def width(self) -> float:
        """The standard deviation of everything that decides an answer."""
        return math.sqrt(1 + EASE_SD**2 + self.seed_sd**2)

    def shifts(self, rng: np.random.Generator) -> Floats:
        """(K,) how much better each configuration is than the mean."""
        return np.asarray(self.spread * rng.normal(size=self.num_trials))

    def answers(self, shifts_K: Floats, rng: np.random.Generator) -> Floats:
        """(K, M, N) right and wrong answers."""
        mean = NORMAL.inv_cdf(ACCURACY) * self.width
        ease_N = EASE_SD * rng.normal(size=NUM_EXAMPLES)
        seed_KM = self.seed_sd * rng.normal(size=(self.num_trials, self.num_seeds))
        luck_KMN = rng.normal(size=(self.num_trials, self.num_seeds, NUM_EXAMPLES))
        latent_KMN = mean + shifts_K[:, None, None] + seed_KM[:, :, None] + ease_N + luck_KMN
        return np.asarray(latent_KMN > 0, dtype=np.float64)

    def truth(self, shifts_K: Floats) -> Floats:
        """(K,) each configuration's accuracy over all examples and seeds."""
        mean = NORMAL.inv_cdf(ACCURACY) * self.width
        return np.array([NORMAL.cdf((mean + shift) / self.width) for shift in shifts_K])


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """How often something happened, with Wilson's 95 % interval."""

    what: str
    num_trials: int
    promise: str
    rate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Flattery:
    """What the best of K loses on average, and what was expected, in accuracy."""

    what: str
    num_trials: int
    lost: float
    expected: float
    plain: float  # by a bootstrap that does not shrink the differences between trials


def main() -> None:
    parser = command_line(__doc__, __file__)
    parser.add_argument("--sweeps", type=int, default=1000)
    args = parser.parse_args()
    shares = {"ties": ties(args.sweeps), "coverage": coverage(args.sweeps)}
    flatteries = optimism(args.sweeps // 2)
    facts = {name: [asdict(row) for row in rows] for name, rows in shares.items()}
    write(args.out, sds=measured_sds(), **facts, optimism=[asdict(row) for row in flatteries])
    text = "\n\n".join([*(markdown(SHARES, rows) for rows in shares.values()), markdown(FLATTERIES, flatteries)])
    Path(args.out).with_suffix(".md").write_text(f"{HEADING}\n\n{text}\n", encoding="utf-8")
    print(text)


def ties(num_sweeps: int) -> list[Share]:
    """Return how often a trial is turned away although all have one expectation."""
    rows = []
    for num_trials in NUM_TRIALS:
        fixed, lucky = World(num_trials=num_trials), World(num_trials=num_trials, seed_sd=SEED_SD)
        several = World(num_trials=num_trials, num_seeds=3, seed_sd=SEED_SD)
        for what, promise, world, method in (
            ("best against each (before), equal adapters", "5 %", fixed, _tied_with_one_named_before),
            ("all pairs, equal adapters", "5 %", fixed, _tied),
            ("all pairs, equal settings, one seed each", "none", lucky, _tied),
            ("all pairs, equal settings, three seeds each", "5 %", several, _tied),
        ):
            hits = [method(answers) < num_trials for answers in _draws(world, num_sweeps)]
            rows.append(_share(what, num_trials, promise, hits))
    return rows


def coverage(num_sweeps: int) -> list[Share]:
    """Return how often an interval holds the accuracy of the settings over all examples and seeds."""
    one = World(num_trials=1)
    rows = [("one seed, seeds alike", "95 %", one), ("one seed, seeds differ", "none", _replaced(one, 1))]
    rows += [(f"{num} seeds", "95 %", _replaced(one, num)) for num in (2, 3, 5)]
    return [
        _share(f"interval of {what}", 1, promise, [_covers(answers[0]) for answers in _draws(world, num_sweeps)])
        for what, promise, world in rows
    ]


def optimism(num_sweeps: int) -> list[Flattery]:
    """Return what the winner of sweeps loses on fresh examples and seeds, beside what was expected."""
    worlds = {
        "equal adapters": World(num_trials=0),
        "adapters that differ": World(num_trials=0, spread=SPREAD),
        "equal settings, one seed each": World(num_trials=0, seed_sd=SEED_SD),
        "equal settings, three seeds each": World(num_trials=0, num_seeds=3, seed_sd=SEED_SD),
    }
    return [
        _flattery(what, World(**{**asdict(world), "num_trials": num_trials}), num_sweeps)
        for num_trials in NUM_TRIALS
        for what, world in worlds.items()
    ]


def measured_sds() -> dict[str, float]:
    """Return the accuracy's standard deviation by seeds on the same examples, and by examples."""
    rng = np.random.default_rng(0)
    seeds = World(num_trials=1, num_seeds=500, seed_sd=SEED_SD).answers(np.zeros(1), rng)
    fixed = World(num_trials=1)
    examples = [fixed.answers(np.zeros(1), rng).mean() for _ in range(2000)]
    return {"seeds": float(seeds.mean(axis=2).std()), "examples": float(np.std(examples))}


def _draws(world: World, num_sweeps: int) -> list[Floats]:
    rng = np.random.default_rng(0)
    return [world.answers(world.shifts(rng), rng) for _ in range(num_sweeps)]


def _replaced(world: World, num_seeds: int) -> World:
    return World(num_trials=world.num_trials, num_seeds=num_seeds, seed_sd=SEED_SD)


def _tied(answers_KMN: Floats) -> int:
    return len(tied_with_best(dict(enumerate(answers_KMN.tolist())), maximize=True, flips=FLIPS))


def _tied_with_one_named_before(answers_KMN: Floats) -> int:
    """Count ties as they were counted before: the best is picked, and all others are tested against it alone."""
    scores_NK = answers_KMN[:, 0].T
    deficits_NK = scores_NK[:, [scores_NK.sum(axis=0).argmax()]] - scores_NK
    scale_K = np.sqrt((deficits_NK**2).sum(axis=0))
    unit_NK = deficits_NK / np.where(scale_K > 0, scale_K, 1.0)
    signs_FN = np.random.default_rng(0).integers(2, size=(FLIPS, len(unit_NK))) * 2.0 - 1.0
    largest_F = np.abs(signs_FN @ unit_NK).max(axis=1)
    reached_K = (largest_F[:, None] >= np.abs(unit_NK.sum(axis=0)) - 1e-9).sum(axis=0)
    return int(((1 + reached_K) / (1 + FLIPS) > 0.05).sum())


def _covers(answers_MN: Floats) -> bool:
    found: Interval = (
        crossed_interval(answers_MN.tolist())
        if len(answers_MN) > 1
        else wilson_interval(int(answers_MN.sum()), answers_MN.size)
    )
    return found.low <= ACCURACY <= found.high


def _flattery(what: str, world: World, num_sweeps: int) -> Flattery:
    rng = np.random.default_rng(0)
    lost, expected, plain = [], [], []
    for _ in range(num_sweeps):
        shifts_K = world.shifts(rng)
        answers = world.answers(shifts_K, rng)
        means_K = answers.mean(axis=(1, 2))
        best = int(means_K.argmax())
        lost.append(means_K[best] - world.truth(shifts_K)[best])
        expected.append(expected_optimism(answers.tolist(), maximize=True, resamples=FLIPS))
        plain.append(_plain(answers.mean(axis=1).T))
    return Flattery(
        what=what,
        num_trials=world.num_trials,
        lost=float(np.mean(lost)),
        expected=float(np.mean(expected)),
        plain=float(np.mean(plain)),
    )


def _plain(scores_NK: Floats) -> float:
    means_BK, mean_K = resampled_means(scores_NK, resamples=FLIPS, seed=0), scores_NK.mean(axis=0)
    winner_B = means_BK.argmax(axis=1)
    return float((means_BK.max(axis=1) - mean_K[winner_B]).mean())


def _share(what: str, num_trials: int, promise: str, hits: Sequence[bool]) -> Share:
    found = wilson_interval(sum(hits), len(hits))
    return Share(what=what, num_trials=num_trials, promise=promise, rate=found.value, low=found.low, high=found.high)


SHARES: Mapping[str, Callable[[Share], object]] = {
    "what": lambda r: r.what,
    "trials": lambda r: r.num_trials,
    "promise": lambda r: r.promise,
    "measured": lambda r: f"{100 * r.rate:.1f} %",
    "95 % interval": lambda r: f"{100 * r.low:.1f}\N{EN DASH}{100 * r.high:.1f} %",
}
FLATTERIES: Mapping[str, Callable[[Flattery], object]] = {
    "what": lambda r: r.what,
    "trials": lambda r: r.num_trials,
    "the best loses": lambda r: f"{r.lost:.3f}",
    "expected": lambda r: f"{r.expected:.3f}",
    "plain bootstrap": lambda r: f"{r.plain:.3f}",
}

if __name__ == "__main__":
    main()
