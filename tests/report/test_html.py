"""The page escapes text of users, loads nothing from the network, and is complete."""

import base64
import hashlib
import html
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser

from lorasweep.core.result import Point, Sample, TrialResult, TrialState
from lorasweep.core.spec import ModelSpec
from lorasweep.report.html import to_html
from lorasweep.report.leaderboard import Leaderboard, build_leaderboard
from lorasweep.report.svg import curves
from tests.report.conftest import REAL

Make = Callable[..., TrialResult]
ATTACK = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>"


class Tags(HTMLParser):
    """Every tag with its attributes, as a browser would find them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def attacked(trial: Make) -> str:
    points = tuple(Point(step=s, metrics={"eval/accuracy": s / 2}) for s in (1, 2))
    winner = trial(0, params={"lora.r": 8, "train.optim": ATTACK}, history=points, provenance={ATTACK: ATTACK})
    winner = replace(winner, spec=replace(winner.spec, model=ModelSpec(id=ATTACK)))
    winner = replace(winner, samples=(Sample(prompt=ATTACK, reference=ATTACK, output=ATTACK),))
    lost = trial(1, spec=winner.spec, state=TrialState.FAILED, reason=f"Traceback\n{ATTACK}",
                 params={"lora.r": 8, "train.optim": "adamw"}, metrics={ATTACK: 1.0})  # fmt: skip
    board = build_leaderboard([winner, lost], name=ATTACK, question=ATTACK, objective="accuracy", notes=[ATTACK],
                              test_metrics={ATTACK: 1.0})  # fmt: skip
    return to_html(board)


def test_nothing_a_user_wrote_becomes_a_tag(trial: Make) -> None:
    page = attacked(trial)
    tags = Tags(page).found
    assert page.count("alert(1)") > 8
    assert [tag for tag, _ in tags].count("script") == 1 and "img" not in [tag for tag, _ in tags]
    assert not any(name.startswith("on") for _, attributes in tags for name in attributes)


def test_the_model_id_is_shown(trial: Make) -> None:
    assert "<dt>model.id</dt><dd>&lt;script&gt;" in attacked(trial)


def test_nothing_is_fetched(board: Leaderboard) -> None:
    page = to_html(board)
    sources = [a[name] for _, a in Tags(page).found for name in ("src", "href", "srcset", "data") if name in a]
    assert sources == ["data:,"]
    assert "@import" not in page and "url(" not in page


def test_only_the_pages_own_script_may_run(board: Leaderboard) -> None:
    page = to_html(board)
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page


def test_every_row_has_a_cell_for_every_column(board: Leaderboard) -> None:
    page = to_html(board)
    table = page[page.index('<table class="sortable">') : page.index("</table>")]
    head, *rows = table.split("<tr")[1:]
    assert len(rows) == 18
    assert {row.count("<td") for row in rows} == {head.count("<th ")}


def test_the_winner_comes_with_its_test_scores_samples_and_probes(board: Leaderboard) -> None:
    page = to_html(board)
    assert "<dt>accuracy, test</dt><dd>0.827" in page
    assert html.escape(REAL.samples[0].prompt.splitlines()[0]) in page
    assert "left out of the mean: baseline 0.270" in page


def test_numbers_sort_by_their_value_and_not_by_their_text(board: Leaderboard) -> None:
    assert 'data-sort="1572864">1.57 M</td>' in to_html(board)


def test_each_trial_with_rungs_has_a_curve(board: Leaderboard) -> None:
    page = to_html(board)
    assert page.count('<svg class="spark"') == 16
    assert page.count('<polyline class="first"') == 1


def test_a_diverged_curve_does_not_break_the_page(trial: Make) -> None:
    values = (1.0, float("nan"), float("inf"), 1e300)
    points = tuple(Point(step=s, metrics={"eval/loss": v}) for s, v in enumerate(values))
    lost = trial(1, state=TrialState.FAILED, objective=None, history=points)
    board = build_leaderboard([trial(0, objective=2.0), lost], name="s", question="q", objective="loss")
    page = re.sub(r"<style>.*</style>", "", to_html(board), flags=re.DOTALL)
    assert not re.search(r"\bnan\b", page)


def test_curves_outside_the_range_of_the_best_are_cut_off_at_the_axis() -> None:
    chart = curves([("best", "first", [(1, 0.8), (2, 0.9)]), ("pruned", "other", [(1, 0.1)])], [[(1, 0.8), (2, 0.9)]])
    frame = chart.index('<svg x="52" y="10" width="572" height="214"')
    assert frame < chart.index("<polyline") < chart.rindex("<polyline") < chart.index("</svg>")
