"""Composition of command lines, and messages if it fails."""

from pathlib import Path
from typing import Any

import pytest

from lorasweep.config.compose import compose, groups, questions, split
from lorasweep.config.folders import data_dir
from lorasweep.config.space import read_space
from lorasweep.core.errors import ConfigError
from tests.settings import composed

MINE = '# Mine?\nsweep: {name: mine, space: {lora: {r: "choice(2,4)"}}}\n'


def space(*arguments: str) -> dict[str, Any]:
    return dict(composed(*arguments)["sweep"]["space"])


def problems(*arguments: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        composed(*arguments)
    return caught.value.problems


@pytest.fixture
def own(in_tmp: Path) -> str:
    """A folder of the user's own sweeps and groups, with a space in its name, and one malformed file."""
    folder = in_tmp / "my sweeps, old (1)"
    for name, text in {
        "mine.yaml": MINE,
        "sweep/other.yaml": MINE.replace("2,4", "8,16"),
        "broken.yaml": "sweep: [",
        "latin.yaml": "sweep: caf\xe9",
        "model/small.yaml": "id: my/base\n",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="latin-1")
    return str(folder)


def test_a_pruner_s_former_name_still_works_with_a_note(caplog: pytest.LogCaptureFixture) -> None:
    assert composed("study.pruner=losers")["study"]["pruner"] == "rules"
    assert "study.pruner=losers is now called rules" in caplog.text


@pytest.mark.parametrize("argument", ["+sweep=rank_alpha", "sweep=rank_alpha", "++sweep=rank_alpha"])
def test_a_sweep_is_found_with_and_without_a_plus(argument: str) -> None:
    assert composed(argument)["sweep"]["name"] == "rank_alpha"


def test_a_sweep_may_set_more_than_its_space() -> None:
    raw = composed("+sweep=target_modules")
    assert (raw["lora"]["lora_alpha"], raw["study"]["sampler"]) == ("2r", "grid")


def test_the_command_line_overrides_the_sweep() -> None:
    assert composed("study.sampler=tpe", "+sweep=rank_alpha")["study"]["sampler"] == "tpe"


def test_a_sweep_that_is_not_there_is_answered_with_all_that_are() -> None:
    [problem] = problems("+sweep=rank_alhpa")
    assert "did you mean 'rank_alpha'?" in problem
    assert "everything, learning_rate, lora_vs_qlora" in problem


def test_several_mistakes_of_a_command_line_come_together() -> None:
    found = problems("+sweep=foo", "model=tinylama", "lora.r=choice(4", "train.learning_rate=interval(1)")
    assert [p.split(":")[0] for p in found] == [
        "+sweep=foo",
        "model=tinylama",
        "lora.r=choice(4",
        "train.learning_rate=interval(1)",
    ]
    assert "did you mean 'tinyllama'?" in found[1]


def test_unknown_settings_reach_the_check_that_reports_all_of_them() -> None:
    with pytest.raises(ConfigError) as caught:
        read_space(composed("quant=nf4", "lora.rr=4", "lora.alpha=2,4"))
    assert [p.split(";")[0] for p in caught.value.problems] == [
        "quant: no such setting",
        "lora.rr: no such setting",
        "sweep.space.lora.alpha: no such setting",
    ]


def test_a_list_on_the_command_line_becomes_part_of_the_space() -> None:
    assert space("lora.r=4,8", "train.learning_rate=tag(log,interval(1e-4,1e-2))") == {
        "lora": {"r": "4,8"},
        "train": {"learning_rate": "tag(log,interval(1e-4,1e-2))"},
    }


def test_quotes_and_backslashes_of_a_sweep_survive() -> None:
    text = r"""choice("a\"b",'c\d')"""
    assert space(f"data.text_column={text}") == {"data": {"text_column": text}}


def test_a_list_on_the_command_line_joins_the_sweeps_space() -> None:
    assert space("+sweep=rank_alpha", "lora.lora_dropout=0,0.1")["lora"] == {
        "r": "choice(4, 8, 16)",
        "lora_alpha": "choice(16, 32, 64)",
        "target_modules": "choice(qv, qkv)",
        "lora_dropout": "0,0.1",
    }


@pytest.mark.parametrize(
    "argument", ['+sweep.space.lora.r="choice(1,2)"', "sweep.space.lora.r=choice(1,2)", "lora.r=choice(1,2)"]
)
def test_a_line_of_the_space_can_be_replaced(argument: str) -> None:
    assert space("+sweep=rank_alpha", argument)["lora"]["r"] == "choice(1,2)"


def test_a_plain_value_pins_a_swept_setting_with_a_message(capsys: pytest.CaptureFixture[str]) -> None:
    raw = composed("+sweep=rank_alpha", "lora.r=8")
    assert "r" not in raw["sweep"]["space"]["lora"]
    assert raw["lora"]["r"] == 8
    assert capsys.readouterr().err == "lora.r is set on the command line, so the sweep does not search it\n"


def test_another_base_leaves_the_swept_precision_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert space("+sweep=lora_vs_qlora", "model=tinyllama")["model"] == {"precision": "choice(none, nf4_double)"}
    assert capsys.readouterr().err == ""


def test_a_line_of_the_space_can_be_removed() -> None:
    assert "r" not in space("+sweep=rank_alpha", "~sweep.space.lora.r")["lora"]


def test_devices_are_used_together_and_not_searched() -> None:
    raw = composed("devices=0,1")
    assert raw["devices"] == "0,1"
    assert "sweep" not in raw


@pytest.mark.parametrize(
    "value",
    ["my file.csv[:500]", "tatsu-lab/alpaca:train[:5%]", "a/b{c}.csv", "/tmp/a=b.csv", "demo:intents/train.csv"],
)
def test_a_source_needs_no_quotes_of_hydras(value: str) -> None:
    assert composed("data=alpaca", f"data.train={value}")["data"]["train"] == value


def test_a_template_needs_no_quotes_of_hydras() -> None:
    assert composed("data.template=Q: {question}, A:")["data"]["template"] == "Q: {question}, A:"


def test_a_list_of_modules_is_one_value() -> None:
    assert composed("lora.target_modules=[q_proj,v_proj]")["lora"]["target_modules"] == ["q_proj", "v_proj"]


def test_an_interpolation_that_leads_nowhere_is_a_mistake_of_the_configuration() -> None:
    assert "nowhere" in problems("data.template=${nowhere}")[0]


@pytest.mark.parametrize(("name", "choice"), [("mine", "choice(2,4)"), ("other", "choice(8,16)")])
def test_a_users_own_sweep_is_found_and_a_broken_one_is_ignored(own: str, name: str, choice: str) -> None:
    assert space("--config-dir", own, f"+sweep={name}") == {"lora": {"r": choice}}


def test_a_broken_file_is_named(own: str, caplog: pytest.LogCaptureFixture) -> None:
    composed("--config-dir", own, "+sweep=rank_alpha")
    assert sorted(Path(r.args[0]).name for r in caplog.records if r.args) == ["broken.yaml", "latin.yaml"]  # type: ignore[arg-type,index]


def test_a_users_own_group_option_is_found(own: str) -> None:
    assert composed("--config-dir", own, "model=small")["model"]["id"] == "my/base"


def test_a_folder_that_is_not_there_is_named() -> None:
    assert problems("--config-dir", "/no/such")[0] == "--config-dir: /no/such is not a folder"


def test_flags_are_parted_from_overrides() -> None:
    assert split(["-m", "--config-dir=d", "lora.r=4", "-c", "job"]) == (
        {"--config-dir": "d", "--cfg": "job"},
        ["lora.r=4"],
    )


def test_a_flag_that_means_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="--fast: no such option"):
        split(["--fast"])


def test_the_text_is_the_configuration_that_runs() -> None:
    import yaml

    raw, text = compose(["+sweep=rank_alpha", "lora.r=8"], data_dir("conf"), data_dir("sweeps"))
    assert yaml.safe_load(text) == raw


def test_every_sweep_has_a_question_and_every_group_a_choice() -> None:
    assert all(question.endswith("?") for question in questions(data_dir("sweeps")).values())
    assert "demo" in groups(data_dir("conf"))["model"]


def probes(*overrides: str) -> list[str]:
    return list(composed(*overrides)["eval"]["probes"])


def test_every_base_gets_the_probes_that_fit_it(tmp_path: Path) -> None:
    demo, general = ["arithmetic", "facts", "relations", "sequences", "sentiment"], probes("probes=general")
    assert probes() == probes("+sweep=rank_alpha") == probes("model.id=demo") == demo
    assert probes("model=qwen2.5-0.5b") == probes("model.id=some/base") == general != []
    assert probes(f"model.id={tmp_path}") == probes("model.id=./missing") == []


def test_bases_of_different_kinds_share_probes_only_if_these_fit_all_of_them() -> None:
    assert probes("model.id=some/base,other/base") == probes("probes=general")
    assert probes("model.id=demo,some/base") == []


def test_probes_that_are_set_win_over_those_that_fit(tmp_path: Path) -> None:
    own = "eval.probes={history:{path:probe.jsonl}}"
    assert probes("model.id=some/base", own) == probes(own) == ["history"]
    assert probes("probes=wikitext") == probes("model.id=some/base", "probes=wikitext") == ["wikitext"]
    assert probes("model=qwen2.5-0.5b", "probes=none") == []


def test_a_setting_of_a_fitting_probe_can_be_changed() -> None:
    assert composed("eval.probes.facts.limit=10")["eval"]["probes"]["facts"]["limit"] == 10
