"""Are ties, intervals and expected optimism as accurate as promised, in simulated sweeps with known truth?

    python -m benchmarks.statistics [--sweeps 1000]

Takes a minute. Every trial answers 160 validation examples, some easy and some hard for all; accuracy is 0.7.
Ties: the share of sweeps of equal trials in which at least one is called different from the winner. Equal adapters have
equal expected scores; equal settings are trained with seeds that differ by 0.04 in accuracy, as measured on a real one.
Coverage: how often the 95 % interval of one configuration contains its accuracy over all examples and seeds.
Optimism: the loss of the winner on new examples and seeds, and the loss that the report expects.
One seed cannot predict other seeds: there nothing is promised.
"""

# K configurations, M seeds of each, N examples

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from benchmarks.output import command_line, write
from evaluation.optimism import expected_optimism
from evaluation.seeds import crossed_interval
from evaluation.statistics import wilson_interval
from evaluation.ties import tied_with_best

Floats = NDArray[np.float64]
NORMAL = NormalDist()
NUM_EXAMPLES = 160
ACCURACY = 0.7
EASE_SD = 2.0  # between examples, in units of the noise of a single answer
SEED_SD = 0.19  # in the same units: 0.037 of accuracy between seeds, as measured on real trials
SPREAD = 0.3  # between configurations, in the same units: 0.047 of accuracy
FLIPS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The parameters of simulated sweeps, and the promise of the report for them."""

    what: str
    promise: str = ""
    num_trials: int = 1
    num_seeds: int = 1
    seed_sd: float = SEED_SD
    spread: float = 0.0

    def sweeps(self, count: int) -> Iterator[tuple[Floats, Floats]]:
        """Yield answers (K, M, N), 1 if correct, and the accuracy (K,) over all examples and seeds."""
        rng = np.random.default_rng(0)
        width = math.sqrt(1 + EASE_SD**2 + self.seed_sd**2)
        for _ in range(count):
            mean_K = NORMAL.inv_cdf(ACCURACY) * width + self.spread * rng.normal(size=self.num_trials)
            ease_N = EASE_SD * rng.normal(size=NUM_EXAMPLES)
            seed_KM = self.seed_sd * rng.normal(size=(self.num_trials, self.num_seeds))
            noise_KMN = rng.normal(size=(self.num_trials, self.num_seeds, NUM_EXAMPLES))
            latent_KMN = mean_K[:, None, None] + seed_KM[:, :, None] + ease_N + noise_KMN
            yield (latent_KMN > 0).astype(float), np.array([NORMAL.cdf(mean / width) for mean in mean_K])


TIES = (
    World(what="equal adapters", promise="5 %", seed_sd=0.0),
    World(what="equal settings, one seed each", promise="none"),
    World(what="equal settings, three seeds each", promise="5 %", num_seeds=3),
)
COVERAGE = (
    World(what="one seed, seeds alike", promise="95 %", seed_sd=0.0),
    World(what="one seed, seeds differ", promise="none"),
    *(World(what=f"{num} seeds", promise="95 %", num_seeds=num) for num in (2, 3, 5)),
)
OPTIMISM = (TIES[0], World(what="adapters that differ", seed_sd=0.0, spread=SPREAD), *TIES[1:])


def is_one_called_different(answers_KMN: Floats) -> bool:
    trials = dict(enumerate(answers_KMN.tolist()))
    return len(tied_with_best(trials, maximize=True, flips=FLIPS)) < len(trials)


def is_covered(answers_KMN: Floats) -> bool:
    """Return whether the interval of a single configuration contains its accuracy."""
    answers_MN = answers_KMN[0]
    one_seed = len(answers_MN) == 1
    plain = wilson_interval(int(answers_MN.sum()), answers_MN.size)
    found = plain if one_seed else crossed_interval(answers_MN.tolist())
    return found.low <= ACCURACY <= found.high


def share(world: World, num_sweeps: int, happens: Callable[[Floats], bool]) -> dict[str, object]:
    """Return how often something happens, with Wilson's 95 % interval."""
    found = wilson_interval(sum(happens(answers) for answers, _ in world.sweeps(num_sweeps)), num_sweeps)
    return {"what": world.what, "trials": world.num_trials, "promise": world.promise, **asdict(found)}


def optimism_of(world: World, num_sweeps: int) -> dict[str, object]:
    """Return the mean loss in accuracy of the best of K on new examples and seeds, and the expected loss."""
    lost, expected = [], []
    for answers, truth_K in world.sweeps(num_sweeps):
        means_K = answers.mean(axis=(1, 2))
        best = int(means_K.argmax())
        lost.append(means_K[best] - truth_K[best])
        expected.append(expected_optimism(answers.tolist(), maximize=True, resamples=FLIPS))
    means = {"the best loses": float(np.mean(lost)), "expected": float(np.mean(expected))}
    return {"what": world.what, "trials": world.num_trials, **means}


def main() -> None:
    parser = command_line(__doc__, __file__)
    parser.add_argument("--sweeps", type=int, default=1000)
    args = parser.parse_args()
    sizes = (6, 18)
    ties = [share(replace(w, num_trials=k), args.sweeps, is_one_called_different) for k in sizes for w in TIES]
    coverage = [share(w, args.sweeps, is_covered) for w in COVERAGE]
    optimism = [optimism_of(replace(w, num_trials=k), max(1, args.sweeps // 2)) for k in sizes for w in OPTIMISM]
    print(write(args.out, {"ties": ties, "coverage": coverage, "optimism": optimism}, __doc__ or ""))


if __name__ == "__main__":
    main()
