"""Prune by what peers reported at the same rung.

Optuna's median and percentile pruners look at complete trials only. Trials that share a bank reach a rung together,
when none is complete, so those pruners would never stop one.
"""

from statistics import quantiles

import optuna
from optuna.trial import FrozenTrial

FEWEST_PEERS = 4  # a quantile of fewer values says little


class PeerPruner(optuna.pruners.BasePruner):
    """Give a trial up that is among the worst `share` of all that reported at its latest rung, itself included."""

    def __init__(self, share: float) -> None:
        self.share = share

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Tell whether the trial's latest value is worse than its peers' quantile."""
        rung = trial.last_step
        if rung is None:
            return False
        peers = [t.intermediate_values[rung] for t in study.get_trials(deepcopy=False) if rung in t.intermediate_values]
        if len(peers) <= FEWEST_PEERS:
            return False
        sign = 1 if study.direction == optuna.study.StudyDirection.MAXIMIZE else -1
        cut = quantiles((sign * value for value in peers), n=100, method="inclusive")[round(100 * self.share) - 1]
        return bool(sign * trial.intermediate_values[rung] < cut)
