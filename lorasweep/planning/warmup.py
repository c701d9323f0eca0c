"""The longest warm-up of a sweep: no trial is compared with others before it ends.

During warm-up a trial is behind those with a shorter warm-up, whatever its final score.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

from lorasweep.config.grammar import Domain
from lorasweep.config.space import ends_of
from lorasweep.core.rungs import warmup_share
from lorasweep.core.spec import TrialSpec
from lorasweep.core.trial import Params

# For each setting, the end of its domain with the largest share of warm-up steps.
LONGEST = {
    "train.warmup_steps": max,
    "train.per_device_train_batch_size": max,
    "train.gradient_accumulation_steps": max,
    "train.num_train_epochs": min,
}
EACH = ("train.max_steps", "train.lr_scheduler_type")  # a positive max_steps overrides the epochs


def longest_warmup(
    points: Sequence[tuple[Params, TrialSpec]],
    domains: Mapping[str, Domain],
    spec_of: Callable[[Params], TrialSpec],
    num_train: Callable[[TrialSpec], int],
) -> float:
    """Return the largest share of steps that a trial's warm-up takes; `spec_of` builds points of the space."""
    corners = (spec_of(params) for params in _extremes([params for params, _ in points], domains))
    specs = itertools.chain((spec for _, spec in points), corners)
    return max(warmup_share(spec, num_train(spec)) for spec in specs)


def _extremes(points: Sequence[Params], domains: Mapping[str, Domain]) -> Iterator[Params]:
    """Yield the corners of the space with the longest warm-up, for each data set and base of the points.

    The given points are left out.
    """
    known = {frozenset(point.items()) for point in points}
    ends = {key: ends_of(domains[key]) for key in EACH if key in domains}
    for key, pick in LONGEST.items():
        if key in domains:
            ends[key] = (pick(ends_of(domains[key]), key=float),)
    bases = {tuple((k, v) for k, v in point.items() if k.startswith(("model.", "data."))): point for point in points}
    for point in bases.values():
        for corner in itertools.product(*ends.values()):
            extreme = {**point, **dict(zip(ends, corner, strict=True))}
            if frozenset(extreme.items()) not in known:
                yield extreme
