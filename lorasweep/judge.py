"""What a pruner's verdict means for a worker: the order to stop a trial, with the reason in words."""

from collections.abc import Sequence

from lorasweep.result import Rung, Stop
from lorasweep.study import Study


def orders(study: Study, pruner: str, objective: str, rungs: Sequence[Rung]) -> list[Stop]:
    """Return the orders that end the trials which the pruner gives up, of those that have just reported."""
    verdicts = study.verdicts({event.number: event.rung for event in rungs}) if rungs else {}
    found = []
    for event in (event for event in rungs if event.number in verdicts):
        verdict = verdicts[event.number]
        where = f"{objective} {event.value:.4g} at rung {event.rung} (step {event.point.step})"
        words = [f"{pruner} pruner", where, *([verdict.reason] if verdict.reason else [])]
        found.append(Stop(number=event.number, reason=": ".join(words), rule=verdict.rule or pruner))
    return found
