"""Values are formatted for people."""

import math

import pytest

from lorasweep.report import figures


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (figures.score(0.8472), "0.847"),
        (figures.score(math.nan), "—"),
        (figures.score(12345.6), "1.235e+04"),
        (figures.percent(0.0312), "+3.1 %"),
        (figures.percent(-0.0001), "0.0 %"),
        (figures.percent(None), "—"),
        (figures.size(0), "—"),
        (figures.size(1023 * 2**20), "1023 MiB"),
        (figures.size(2.5 * 2**30), "2.5 GiB"),
        (figures.count(12288), "12,288"),
        (figures.count(4_194_304), "4.19 M"),
        (figures.duration(59.94), "59.9 s"),
        (figures.duration(3725), "1 h 02 m"),
        (figures.setting(2e-4), "0.0002"),
        (figures.setting(True), "true"),
        (figures.setting(("q_proj", "v_proj")), "q_proj, v_proj"),
        (figures.setting(None), "—"),
    ],
)
def test_a_value_is_written_as_people_read_it(written: str, expected: str) -> None:
    assert written == expected


def test_escape_sequences_cannot_reach_a_terminal() -> None:
    assert "\x1b" not in figures.one_line("\x1b[31mred")


def test_half_a_surrogate_pair_can_be_written_to_a_file() -> None:
    assert figures.printable("a\ud800b").encode() == "a\N{REPLACEMENT CHARACTER}b".encode()
