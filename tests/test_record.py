"""The ledger is written first; a repeated suggestion is answered with the result that is there."""

from pathlib import Path

import pytest

from lorasweep.config.build import StudySettings
from lorasweep.config.grammar import parse
from lorasweep.display.display import LineDisplay
from lorasweep.display.standing import Standing
from lorasweep.driver.ledger import Ledger
from lorasweep.driver.recorder import Record
from lorasweep.planning.expected import Expected
from lorasweep.study.study import Study
from lorasweep.tracking.base import NullTracker, Opening
from lorasweep.tracking.queue import Courier
from tests.settings import SPEC, result

DOMAINS = {"lora.r": parse("lora.r", "choice(8,16)")}


@pytest.fixture
def record(tmp_path: Path) -> Record:
    """Return the record of a study that has asked for three trials."""
    study = Study(tmp_path / "study.db", StudySettings(), DOMAINS, maximize=True, num_rungs=3)
    for _ in range(3):
        study.ask()
    opening = Opening(config="", tags={}, data={}, swept={}, objective="accuracy", maximize=True)
    display = LineDisplay(Standing("accuracy", Expected(evaluation=SPEC.eval)))
    courier = Courier(NullTracker(), opening)
    return Record(Ledger(tmp_path), study, courier, display, objective="accuracy", provenance={"commit": "c"})


def test_a_repeat_of_a_repeat_names_the_trial_that_was_trained(record: Record) -> None:
    record.finish(result(0, objective=0.5), {"lora.r": 8})
    record.repeat(1, {"lora.r": 8}, record.ledger.results[0])
    record.repeat(2, {"lora.r": 8}, record.ledger.results[1])
    repeats = [record.ledger.results[number] for number in (1, 2)]
    assert [(r.same_as, r.reason, r.objective) for r in repeats] == [(0, "same as trial 0", 0.5)] * 2


def test_a_result_is_kept_with_its_parameters_and_its_origin(record: Record) -> None:
    record.finish(result(0, objective=0.5), {"lora.r": 16})
    record.ledger.close()
    [kept] = Ledger(record.ledger.folder).results.values()
    assert (kept.params, kept.provenance) == ({"lora.r": 16}, {"commit": "c"})
