"""Settings and rows of the demo are not used with the user's own training file."""

from pathlib import Path

import pytest

from lorasweep.config.build import build_config
from lorasweep.core.errors import ConfigError
from tests.settings import composed

OWN = "data.train=mine.csv"


def problems(*arguments: str) -> str:
    with pytest.raises(ConfigError) as caught:
        build_config(composed(*arguments))
    return "\n".join(caught.value.problems)


def test_a_training_file_without_a_layout_is_refused_with_the_layouts_there_are() -> None:
    text = problems(OWN)
    assert "data.train: mine.csv comes without data=NAME" in text
    assert "data=alpaca" in text and "data=classification" in text and "demo" not in text


@pytest.mark.parametrize(("layout", "group"), [("alpaca", "alpaca"), ("messages", "chat"), ("text", "text")])
def test_a_format_alone_takes_the_settings_of_its_group(layout: str, group: str) -> None:
    short, long = composed(OWN, f"data.format={layout}"), composed(OWN, f"data={group}")
    assert short == long
    assert (short["data"]["validation"], short["data"]["test"]) == (None, None)


def test_the_demos_learning_rate_does_not_train_other_data() -> None:
    own, demo = composed(OWN, "data.format=classification"), composed()
    assert (demo["train"]["max_steps"], own["train"]["max_steps"]) == (120, -1)
    assert (demo["data"]["max_length"], own["data"]["max_length"]) == (64, 256)


def test_a_format_without_a_group_is_refused() -> None:
    assert "no group has data.format=hellaswag" in problems(OWN, "data.format=hellaswag")


def test_a_part_of_the_demos_rows_is_still_the_demo() -> None:
    raw = composed("data.train=demo:intents/train.csv[:100]")
    assert raw["data"]["validation"] == "demo:intents/validation.csv"


def test_the_demos_rows_are_refused_beside_own_ones_even_where_the_group_is_named() -> None:
    text = problems("data=demo_intents", OWN)
    assert "data.validation and data.test: the demo's rows cannot be combined with data.train=mine.csv" in text
    assert "set data.validation=null data.test=null" in text


def test_a_group_of_the_users_own_may_hold_any_file(in_tmp: Path) -> None:
    folder = in_tmp / "groups" / "data"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("train: mine.csv\nformat: classification\n")
    assert composed("--config-dir", str(folder.parent), "data=mine")["data"]["train"] == "mine.csv"
