"""The rows that a rung scores."""

import pytest

from lorasweep.worker.evaluate import spread
from tests.tiny import token_rows


@pytest.mark.parametrize(("limit", "expected"), [(None, 10), (20, 10), (10, 10), (4, 4), (1, 1)])
def test_a_rung_scores_at_most_its_limit(limit: int | None, expected: int) -> None:
    assert len(spread(token_rows(10), limit)) == expected


def test_a_rung_scores_rows_from_the_whole_file() -> None:
    rows = token_rows(10)
    assert spread(rows, 4) == [rows[0], rows[2], rows[5], rows[7]]
