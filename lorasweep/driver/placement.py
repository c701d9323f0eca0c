"""Which trial goes to which device: where its base is loaded, where it fits, and not before others have made room."""

import time
from collections.abc import Sequence

from lorasweep.core.spec import TrialSpec
from lorasweep.driver.queue import Item
from lorasweep.driver.worker_handle import Display, Seat
from lorasweep.memory import GIB
from lorasweep.planning.plan import USABLE, Plan

TIGHT = 0.5  # share of a device's room that untried predictions may fill at once


class Placement:
    """Answers what a seat may take, by predictions, by what was measured until now, and by what is free at the time."""

    def __init__(self, plan: Plan, display: Display) -> None:
        self.plan, self.display = plan, display

    def of_this_base(self, seat: Seat, waiting: Sequence[Item]) -> Item | None:
        """Return a trial for the base that a seat has loaded."""
        return next((item for item in waiting if item.spec.base_key == seat.base), None)

    def of_another_base(self, seat: Seat, seats: Sequence[Seat], waiting: Sequence[Item]) -> Item | None:
        """Return a trial that an empty seat should change its base for.

        First one whose base nobody has, then one whose base is only where all slots are taken: loading a base is dear,
        a device without work dearer.
        """
        if seat.live:
            return None
        others = [s for s in seats if s is not seat and s.base]
        loaded, roomy = {s.base for s in others}, {s.base for s in others if s.num_free}
        new = (item for item in waiting if item.spec.base_key not in loaded)
        crowded = (item for item in waiting if item.spec.base_key not in roomy)
        return next(new, None) or next(crowded, None)

    def too_large(self, spec: TrialSpec) -> str:
        """Return why no device has room for a trial, empty where one has."""
        budget = self.plan.config.study.memory_gib
        device = max(self.plan.devices, key=lambda device: device.most_bytes)
        most = min(device.most_bytes / GIB, budget or float("inf"))
        need = self.plan.footprint([spec]).total / GIB
        if need <= most:
            return ""
        has = "has" if device.is_gpu else "has free"
        limit = f"study.memory_gib={budget:g}" if most == budget else f"the roomiest device {has} {most:.2f} GiB"
        return f"needs {need:.2f} GiB, {limit}; lower the batch size or set model.precision=nf4"

    def fits_beside(self, seat: Seat, spec: TrialSpec) -> bool:
        """Tell whether there is room for one more trial; an empty seat's first is another question."""
        room = None if self.plan.config.study.slots or not seat.live else seat.room()
        specs = [start.spec for start in seat.live.values()]
        return room is None or self.plan.footprint([*specs, spec], seat.kind).total <= room

    def awaits_probe(self, seat: Seat) -> bool:
        """Tell whether memory is tight and this base was never measured: then one trial goes ahead of the others."""
        if not seat.live or self.plan.config.study.slots:
            return False
        spec = next(iter(seat.live.values())).spec
        if self.plan.corrections.is_known(self.plan.info(spec.model).fingerprint, spec.model, seat.kind):
            return False
        room = seat.room()
        need = self.plan.footprint([spec] * seat.num_slots, seat.kind).total
        return room is not None and need > TIGHT * room

    def is_full(self, seat: Seat, number: int, spec: TrialSpec) -> bool:
        """Tell whether others leave a GPU no room for the first trial of a seat, and say so once."""
        room, need = seat.room(), self.plan.footprint([spec], seat.kind).total
        # Alone it may have all that is free; there is nobody beside whom it might grow.
        if seat.live or seat.kind == "cpu" or room is None or need * USABLE <= room:
            seat.full_since_s = None
            return False
        if seat.full_since_s is None:
            seat.full_since_s = time.monotonic()
            self.display.say(
                f"GPU {seat.device} has room for {room / GIB:.1f} GiB, trial {number} needs {need / GIB:.1f}; waiting "
                f"up to {self._patience_min:g} min (study.device_wait_min) for others to leave it"
            )
        return True

    def has_waited_enough(self, seat: Seat) -> bool:
        """Tell whether a full GPU should be given up, and say so."""
        since = seat.full_since_s
        if since is None or time.monotonic() - since <= 60 * self._patience_min:
            return False
        self.display.say(
            f"GPU {seat.device} is still full; going on without it (study.device_wait_min={self._patience_min:g})"
        )
        return True

    @property
    def _patience_min(self) -> float:
        return self.plan.config.study.device_wait_min
