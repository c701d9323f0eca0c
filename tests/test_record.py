"""The ledger is written first; a duplicate gets the result of the trial that it equals."""

from pathlib import Path

import pytest

from lorasweep.config.grammar import parse
from lorasweep.config.settings import StudySettings
from lorasweep.core.result import TrialResult
from lorasweep.core.trial import Params, Trial
from lorasweep.driver.ledger import Ledger
from lorasweep.driver.queue import repeated
from lorasweep.driver.recorder import Recorder
from lorasweep.study.study import Study
from tests.settings import SPEC, result

DOMAINS = {"lora.r": parse("lora.r", "choice(8,16)")}


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    """Return the recorder of a study that has asked for three trials."""
    settings = StudySettings()
    study = Study(tmp_path / "study.db", settings, DOMAINS, objective="accuracy", num_rungs=3)
    for _ in range(3):
        study.ask()
    return Recorder(Ledger(tmp_path), study, [], objective="accuracy", provenance={"commit": "c"})


def trial(number: int, params: Params) -> Trial:
    return Trial(number=number, params=params, spec=SPEC)


def test_a_duplicate_of_a_duplicate_names_the_trial_that_was_trained(recorder: Recorder) -> None:
    known: TrialResult = result(0, objective=0.5)
    for number in (1, 2):
        recorder.finish(known)
        known = repeated(trial(number, {"lora.r": 8}), recorder.ledger.results[number - 1])
    recorder.finish(known)
    found = [recorder.ledger.results[number] for number in (1, 2)]
    assert [(r.same_as, r.reason, r.objective) for r in found] == [(0, "same as trial 0", 0.5)] * 2


def test_a_result_is_kept_with_its_parameters_and_its_origin(recorder: Recorder) -> None:
    recorder.finish(result(0, objective=0.5))
    recorder.ledger.close()
    [kept] = Ledger(recorder.ledger.folder).results.values()
    assert (kept.params, kept.provenance) == ({"lora.r": 8}, {"commit": "c"})
