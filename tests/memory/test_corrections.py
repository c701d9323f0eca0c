"""Predictions are corrected by measured peaks, and the corrections are stored."""

from pathlib import Path

import pytest

from lorasweep.core.spec import ModelSpec
from lorasweep.memory import Corrections

MIB = 1 << 20
BASE = ModelSpec(id="demo")


def learned(folder: Path, *pairs: tuple[int, int]) -> Corrections:
    found = Corrections(folder)
    for predicted, measured in pairs:
        found.learn("base", BASE, "cpu", predicted * MIB, measured * MIB)
    return found


def test_without_a_measurement_the_arithmetic_stands(tmp_path: Path) -> None:
    found = Corrections(tmp_path)
    assert found.factor("base", BASE, "cpu") == 1.0
    assert not found.is_known("base", BASE, "cpu")


def test_the_first_measurement_counts_in_full_and_later_ones_are_averaged(tmp_path: Path) -> None:
    assert learned(tmp_path, (100, 150)).factor("base", BASE, "cpu") == 1.5
    assert learned(tmp_path / "two", (100, 150), (100, 110)).factor("base", BASE, "cpu") == pytest.approx(1.3)


def test_what_was_learned_is_there_in_the_next_sweep(tmp_path: Path) -> None:
    learned(tmp_path, (100, 150))
    assert Corrections(tmp_path).factor("base", BASE, "cpu") == 1.5


def test_bases_precisions_and_devices_learn_apart(tmp_path: Path) -> None:
    found = learned(tmp_path, (100, 150))
    others = [
        found.factor("another", BASE, "cpu"),
        found.factor("base", ModelSpec(id="demo", precision="nf4"), "cpu"),
        found.factor("base", ModelSpec(id="demo", dtype="bf16"), "cpu"),
        found.factor("base", BASE, "cuda"),
    ]
    assert others == [1.0] * 4


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"factor": "x"}', '{"factor": 900, "count": 2}', '{"factor": NaN, "count": 1}']
)
def test_a_damaged_file_is_begun_anew(tmp_path: Path, text: str) -> None:
    learned(tmp_path, (100, 150))
    (file,) = tmp_path.iterdir()
    file.write_text(text)
    found = Corrections(tmp_path)
    assert found.factor("base", BASE, "cpu") == 1.0
    found.learn("base", BASE, "cpu", 100 * MIB, 120 * MIB)
    assert Corrections(tmp_path).factor("base", BASE, "cpu") == 1.2


def test_one_odd_measurement_makes_nothing_impossible(tmp_path: Path) -> None:
    assert learned(tmp_path, (1, 100_000)).factor("base", BASE, "cpu") == 3.0
    assert learned(tmp_path / "low", (100_000, 1)).factor("base", BASE, "cpu") == 0.5


def test_the_newest_measurement_never_counts_less_than_a_fifth(tmp_path: Path) -> None:
    assert learned(tmp_path, *[(100, 100)] * 9, (100, 200)).factor("base", BASE, "cpu") == pytest.approx(1.2)


def test_a_peak_too_small_to_divide_by_teaches_nothing(tmp_path: Path) -> None:
    found = Corrections(tmp_path)
    found.learn("base", BASE, "cpu", predicted=1000, measured=2000)
    assert not found.is_known("base", BASE, "cpu")
