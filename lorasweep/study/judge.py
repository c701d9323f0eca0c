"""What a pruner's verdict means for a worker: the order to stop a trial, with the reason in words."""

from collections.abc import Collection, Sequence

from lorasweep.core.result import Rung, Stop
from lorasweep.study.study import Study


class Judge:
    """Hears what live trials report, and gives up those that the pruner has a reason against."""

    def __init__(self, study: Study, pruner: str, objective: str) -> None:
        self.study, self.pruner, self.objective = study, pruner, objective
        self._latest: dict[int, Rung] = {}  # what trials that went on said last

    def hear(self, rungs: Sequence[Rung], live: Collection[int]) -> list[Stop]:
        """Return the orders that end trials: of those that have just reported, and of those whom they have beaten.

        Who reaches a rung early, in another process or an earlier slot, has few peers to be judged by; later ones must
        not be judged more strictly than they were.
        """
        now = {event.number: event for event in rungs}
        self._latest = {n: event for n, event in self._latest.items() if n in live} | now
        again = {n: e for n, e in self._latest.items() if self.pruner == "losers" and e.rung in _levels(rungs)}
        judged = now | again
        verdicts = self.study.verdicts({n: e.rung for n, e in judged.items()}) if judged else {}
        for number in verdicts:
            self._latest.pop(number)
        return [self._stop(judged[number], verdict.rule, verdict.reason) for number, verdict in verdicts.items()]

    def _stop(self, event: Rung, rule: str, reason: str) -> Stop:
        where = f"{self.objective} {event.value:.4g} at rung {event.rung} (step {event.point.step})"
        words = [f"{self.pruner} pruner", where, *([reason] if reason else [])]
        return Stop(number=event.number, reason=": ".join(words), rule=rule or self.pruner)


def _levels(rungs: Sequence[Rung]) -> set[int]:
    return {event.rung for event in rungs}
