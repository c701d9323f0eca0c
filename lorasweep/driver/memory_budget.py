"""What the trials of a seat were expected to need, what they did need, and what follows for the next prediction."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from lorasweep.core.result import Measured, Start, TrialResult
from lorasweep.core.spec import TrialSpec
from lorasweep.driver.worker_handle import Seat
from lorasweep.memory import Footprint, footprint, own_bytes
from lorasweep.planning.plan import Plan


@dataclass(slots=True)
class Crowd:
    """The most that a seat was expected to hold since it was last empty, as its worker's meter measures."""

    predicted: int = 0  # corrected, as it was decided by
    raw: Footprint | None = None
    own: dict[int, int] = field(default_factory=dict)


class Forecast:
    """Predictions of live trials, compared with the peaks that their worker reports."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.crowds: dict[str, Crowd] = {}

    def expect(self, seat: Seat, newcomers: int) -> None:
        """Note what is live on a seat, `newcomers` of it just started."""
        if newcomers == len(seat.live):
            self.crowds[seat.device] = Crowd()
        crowd = self.crowds[seat.device]
        specs = [start.spec for start in seat.live.values()]
        raw = footprint(self.plan.info(specs[0].model), self.plan.loads(specs), kind=seat.kind)
        crowd.own |= self._own(list(seat.live.values()), seat.kind)
        if crowd.raw is None or raw.total > crowd.raw.total:
            crowd.raw = raw
            factor = self.plan.factor(specs[0].model, seat.kind)
            crowd.predicted = raw.corrected(factor, seat.kind).measurable(seat.kind)

    def settle(self, seat: Seat, result: TrialResult) -> TrialResult:
        """Return the result with what was predicted, and learn from what was measured."""
        alone = self.plan.footprint([result.spec], seat.kind).total
        crowd = self.crowds.get(seat.device)
        if crowd is None or crowd.raw is None or not result.cost.peak_bytes:
            return replace(result, cost=replace(result.cost, alone_bytes=alone))
        self._learn(seat.kind, result.spec, crowd.raw, result.cost.peak_bytes)
        cost = replace(
            result.cost,
            predicted_bytes=crowd.predicted,
            share_bytes=_share(crowd, result, seat.kind),
            alone_bytes=alone,
        )
        return replace(result, cost=cost)

    def probed(self, seat: Seat, event: Measured) -> None:
        """Learn from one forward and backward pass over a trial's longest rows, beside the adapters of all."""
        specs = [start.spec for start in seat.live.values()]
        start = seat.live.get(event.number)
        if start is None:
            return
        info = self.plan.info(start.spec.model)
        spec, lengths = self.plan.loads([start.spec])[0]
        longest = replace(lengths, mean=lengths.longest, deviation=0.0)
        one = footprint(info, [(spec, longest)], kind=seat.kind, is_evaluated=False)
        every = footprint(info, self.plan.loads(specs), kind=seat.kind)
        self._learn(seat.kind, spec, replace(one, adapters=every.adapters), event.peak_bytes)

    def _own(self, live: Sequence[Start], kind: str) -> dict[int, int]:
        info = self.plan.info(live[0].spec.model)
        sizes = own_bytes(info, self.plan.loads([start.spec for start in live]), kind=kind)
        return {start.number: size for start, size in zip(live, sizes, strict=True)}

    def _learn(self, kind: str, spec: TrialSpec, raw: Footprint, peak_bytes: int) -> None:
        fingerprint = self.plan.info(spec.model).fingerprint
        predicted, measured = raw.measurable(kind) - raw.weights, peak_bytes - raw.weights
        self.plan.corrections.learn(fingerprint, spec.model, kind, predicted, measured)


def _share(crowd: Crowd, result: TrialResult, kind: str) -> int:
    """Return a trial's part of what the process needed beyond the base, which all of its trials share."""
    assert crowd.raw is not None
    fixed = crowd.raw.weights + (crowd.raw.overhead if kind == "cpu" else 0)
    part = crowd.own.get(result.number, 0) / max(1, sum(crowd.own.values()))
    return round(part * max(0, result.cost.peak_bytes - fixed))
