"""External input is data: names, configurations, bases and results run no code and write to no other folder."""

import pickle
import shutil
from pathlib import Path

import pytest

from lorasweep.adapters.peft_format import load_adapter
from lorasweep.cli import main
from lorasweep.models.shape import DEMO
from tests.faults.sweeps import FAKE, SMALL_DATA


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize(
    "name", ["../x", "/tmp/x", "a/b", "a\\b", "..", ".hidden", "a b", "a\nb", "<script>", "-x", ""]
)
def test_a_name_that_is_no_plain_name_is_refused_and_makes_no_folder(
    name: str, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quoted = '"' + name.replace("\\", "\\\\") + '"'
    assert main([*FAKE, f"sweep.name={quoted}", "tracking=none"]) == 78
    assert "sweep.name" in capsys.readouterr().err
    assert list(in_tmp.iterdir()) == []


@pytest.mark.parametrize("place", ["sweep", "train", "model", "tracking", "sweep.space"])
def test_a_target_in_a_sweep_file_is_an_unknown_setting_and_is_not_called(
    place: str, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = in_tmp / "own"
    own.mkdir()
    section, _, inner = place.partition(".")
    call = "_target_: pathlib.Path.touch, self: {_target_: pathlib.Path, _args_: [called]}"
    body = f"{section}: {{{inner}: {{{call}}}}}" if inner else f"{section}: {{{call}}}"
    start = "sweep: {name: evil}\n" if section != "sweep" else ""
    (own / "evil.yaml").write_text(f"# Does it run?\n{start}{body}\n")
    assert main([*SMALL_DATA, "--config-dir", str(own), "+sweep=evil", "tracking=none"]) == 78
    assert "_target_" in capsys.readouterr().err
    assert [p.name for p in in_tmp.iterdir()] == ["own"]


def test_a_target_in_a_data_file_is_a_text_like_any_other(in_tmp: Path) -> None:
    rows = [
        f'{{"_target_": "os.mkdir", "_args_": ["called"], "text": "say {i}", "label": "l{i % 2}"}}' for i in range(40)
    ]
    Path("rows.jsonl").write_text("\n".join(rows))
    given = ("data=classification", "data.train=rows.jsonl", "train.max_steps=1", "eval.rungs=1", "probes=none")
    assert main([*given, "tracking=none"]) == 0
    assert not Path("called").exists()


def base_with_code(folder: Path, mark: Path) -> Path:
    """Return a copy of the demo's base with custom code."""
    import json

    shutil.copytree(DEMO, folder)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    config["model_type"] = "own"
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"open({str(mark)!r}, 'w')\n")
    return folder


def test_a_base_that_brings_code_is_refused_unless_it_is_trusted(
    in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = base_with_code(in_tmp / "base", in_tmp / "called")
    assert main([*FAKE, f"model.id={folder}", "tracking=none"]) == 78
    assert "model.id" in capsys.readouterr().err
    assert not (in_tmp / "called").exists() and not (in_tmp / "runs").exists()


def test_whether_a_base_is_trusted_cannot_be_searched(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*FAKE, "model.trust_remote_code=true,false", "tracking=none"]) == 78
    assert "trust_remote_code" in capsys.readouterr().err


def test_a_base_with_pickled_weights_alone_is_refused_and_nothing_is_unpickled(
    in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = in_tmp / "base"
    shutil.copytree(DEMO, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(in_tmp / "called")))
    assert main([*FAKE, f"model.id={folder}", "tracking=none"]) == 78
    output = capsys.readouterr().err
    assert "model.id" in output and "safetensors" in output and "Traceback" not in output
    assert not (in_tmp / "called").exists() and not (in_tmp / "runs").exists()


def test_a_pickled_adapter_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "adapter_model.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "called")))
    with pytest.raises(Exception, match=r"adapter_model\.safetensors|No such file"):
        load_adapter(tmp_path)
    assert not (tmp_path / "called").exists()
