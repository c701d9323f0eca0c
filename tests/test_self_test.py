"""A base is tested when it is loaded; a shortcut with other numbers than rows alone is not used."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lorasweep.adapters import load
from lorasweep.adapters.load import load_base
from lorasweep.core.errors import ModelError
from lorasweep.core.spec import ModelSpec
from lorasweep.data.cache import cache_dir
from lorasweep.models import varlen_attention
from lorasweep.models.info import resolve_targets
from lorasweep.models.shortcuts import Shortcuts
from tests.architectures import save_architecture
from tests.tiny import save_base


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache in which no base was tested yet."""
    monkeypatch.setenv("LORASWEEP_CACHE", str(tmp_path / "cache"))
    return tmp_path


def paths_of(folder: Path) -> Shortcuts:
    return load_base(ModelSpec(id=str(folder)), "cpu").shortcuts


def test_a_plain_base_may_take_every_shortcut(fresh: Path) -> None:
    found = paths_of(save_base(fresh / "base", "llama"))
    assert found == Shortcuts(own_attention=True, is_flat=True, option_form="layout", can_pad=True, generation="padded")
    assert found.slow_ways == ()


def test_attention_that_lets_rows_see_each_other_is_found_out(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    monkeypatch.setattr(
        varlen_attention, "attention", sdpa_attention_forward
    )  # like a layer that ignores the borders of rows

    def no_rows(**kwargs: Any) -> Tensor | None:
        from transformers.masking_utils import sdpa_mask

        return sdpa_mask(**kwargs)

    monkeypatch.setattr(varlen_attention, "mask", no_rows)
    found = paths_of(save_base(fresh / "base", "llama"))
    assert not found.is_flat and found.option_form != "layout"


def test_attention_that_is_not_the_base_s_own_is_taken_off(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = varlen_attention.attention

    def doubled(*args: Any, **kwargs: Any) -> Any:
        out, weights = real(*args, **kwargs)
        return 2 * out, weights

    monkeypatch.setattr(varlen_attention, "attention", doubled)
    base = load_base(ModelSpec(id=str(save_base(fresh / "base", "llama"))), "cpu")
    assert not base.shortcuts.own_attention and not base.shortcuts.is_flat
    config: Any = base.model.config
    assert config._attn_implementation == "sdpa"


def test_a_base_is_tested_once(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_base(fresh / "base", "llama")
    found = paths_of(folder)
    monkeypatch.setattr(load, "examine", _refuse)
    assert paths_of(folder) == found


def test_a_damaged_answer_is_made_again(fresh: Path) -> None:
    folder = save_base(fresh / "base", "llama")
    found = paths_of(folder)
    files = list((cache_dir() / "paths").glob("*.json"))
    assert len(files) == 2
    for file, damage in zip(files, ("{", json.dumps({"is_flat": True})), strict=True):
        file.write_text(damage)
    assert paths_of(folder) == found


def test_training_is_not_disturbed_by_the_test(fresh: Path) -> None:
    base = load_base(ModelSpec(id=str(save_base(fresh / "base", "llama"))), "cpu")
    assert not any(type(module).__name__ == "AdaptedLinear" for module in base.model.modules())
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    load.tiny_base_shortcuts(base.model.config)
    assert torch.equal(torch.rand(3), expected)


def test_a_mask_without_a_window_is_not_trusted_where_no_row_was_longer(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "tiny_base_shortcuts", lambda _: None)
    monkeypatch.setattr(varlen_attention, "install", lambda _: False)
    folder = save_architecture("mistral", fresh / "base", sliding_window=4096)
    assert paths_of(folder).option_form == "none"
    assert paths_of(save_base(fresh / "plain", "llama")).option_form == "mask"


def _refuse(*_: object) -> Shortcuts:
    raise AssertionError("tested again")


@pytest.mark.parametrize(
    ("kind", "target", "reason"),
    [
        ("mamba", "dt_proj", "without calling it"),
        ("mamba", "out_proj", "stock PEFT cannot load"),
        ("phimoe", "router", "the shape of a linear's output"),
        ("qwen2_moe", "up_proj", "fused experts"),
    ],
)
def test_a_linear_that_carries_no_adapter_is_refused_with_the_reason(
    tmp_path: Path, kind: str, target: str, reason: str
) -> None:
    spec = ModelSpec(id=str(save_architecture(kind, tmp_path)))
    with pytest.raises(ModelError, match=reason):
        resolve_targets(spec, (target,))
    assert target not in resolve_targets(spec, "all-linear")


def test_refused_modules_are_those_of_pefts_own_tables() -> None:
    from peft.utils import transformers_weight_conversion as own

    from lorasweep.models.usage import FUSED_BY_PEFT

    tables: dict[str, dict[str, str]] = own._MOE_TARGET_MODULE_MAPPING
    assert {kind: set(names) for kind, names in FUSED_BY_PEFT.items()} == {k: set(v) for k, v in tables.items()}


def test_a_name_that_would_match_a_refused_module_too_is_longer(tmp_path: Path) -> None:
    spec = ModelSpec(id=str(save_architecture("laguna", tmp_path)))
    names = resolve_targets(spec, "all-linear")
    assert "mlp.down_proj" in names and "down_proj" not in names
