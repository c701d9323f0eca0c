"""Weights that cannot be loaded are found from the files' headers, before the first trial."""

import json
import shutil
import struct
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from lorasweep.cli import EXIT_CONFIG, main
from lorasweep.core.errors import ModelError
from lorasweep.models.info import describe
from lorasweep.models.weight_files import check_weights
from tests.tiny import ARCHITECTURES, save_base


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save_base(tmp_path / "base", "llama")


def sharded(folder: Path) -> Path:
    """Return a copy with its weights in several files and an index."""
    from transformers import AutoModelForCausalLM

    copy = folder.with_name("sharded")
    shutil.copytree(folder, copy)
    (copy / "model.safetensors").unlink()
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(copy, max_shard_size="60KB")
    return copy


def check(folder: Path) -> None:
    check_weights(describe(str(folder)))


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_whole_weights_pass(tmp_path: Path, kind: str) -> None:
    folder = save_base(tmp_path / kind, kind)
    check(folder)
    check(sharded(folder))
    check_weights(describe("demo"))


@pytest.mark.parametrize("kept", [0, 7, 100, 20_000])
def test_a_file_that_was_cut_off_is_named(base: Path, kept: int) -> None:
    file = base / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(ModelError, match=r"model\.id: .*base/model\.safetensors is damaged.*download it again"):
        check(base)


@pytest.mark.parametrize("header", [b"not JSON", b'{"a": 1}', b'{"a": {"data_offsets": []}}', b"[]"])
def test_a_header_that_cannot_be_read_is_named(base: Path, header: bytes) -> None:
    (base / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged: its header cannot be read"):
        check(base)


def test_a_missing_shard_is_named(base: Path) -> None:
    folder = sharded(base)
    gone = sorted(folder.glob("model-*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(ModelError, match=f"lacks {gone.name}, which model.safetensors.index.json names"):
        check(folder)


def test_an_index_that_cannot_be_read_is_named(base: Path) -> None:
    folder = sharded(base)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": 3}))
    with pytest.raises(ModelError, match=r"index\.json cannot be read"):
        check(folder)


def test_a_layer_without_weights_is_named(base: Path) -> None:
    """transformers would give it random weights and a warning."""
    file = base / "model.safetensors"
    tensors = load_file(file)
    save_file({k: v for k, v in tensors.items() if "layers.1.mlp" not in k}, file, {"format": "pt"})
    with pytest.raises(ModelError, match=r"no weights for model\.layers\.1\.mlp"):
        check(base)


def test_a_folder_without_weights_is_named(base: Path) -> None:
    (base / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"holds no model\.safetensors"):
        check(base)


@pytest.mark.parametrize("verb", ["plan", "run"])
def test_damaged_weights_stop_the_command_before_anything_is_written(
    base: Path, in_tmp: Path, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = base / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert main([verb, f"model.id={base}", "probes=none", "data.max_length=100"]) == EXIT_CONFIG
    assert f"{file} is damaged: its header describes" in capsys.readouterr().err
    assert not list(in_tmp.iterdir())
