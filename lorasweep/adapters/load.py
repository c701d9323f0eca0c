"""Load a base and test its shortcuts once per architecture, device, precision and set of library versions."""

from collections.abc import Callable
from dataclasses import asdict, fields
from types import SimpleNamespace
from typing import Any

from lorasweep.adapters.bank import unwrap
from lorasweep.adapters.self_test import LONGEST, examine, windows
from lorasweep.core.errors import ModelError
from lorasweep.core.spec import ModelSpec, covered, digest
from lorasweep.data.cache import cache_dir, remembered
from lorasweep.models import tiny_base, varlen_attention
from lorasweep.models.base import Base
from lorasweep.models.describe import config_key, info_of
from lorasweep.models.load import load_untested, make_base
from lorasweep.models.shortcuts import Shortcuts


def load_base(spec: ModelSpec, device: str) -> Base:
    """Load a frozen base, and test which shortcuts it allows.

    Raises:
        ModelError: the base cannot be found, has no safetensors weights, or its precision does not work here.
    """
    base = load_untested(spec, device)
    base.shortcuts = tested_shortcuts(base)
    return base


def tested_shortcuts(base: Base) -> Shortcuts:
    """Return the shortcuts that both the base itself and a tiny base of its architecture allow, tested once each.

    The tiny base shows in fp32, and beyond a short window, differences that 16 bits or a long window hide.
    """
    config: Any = base.model.config
    where = [base.device.type, *covered(base.spec, IN_CONFIG).values()]
    own = _remembered([config_key(config), where], lambda: examine(base))
    expected = tiny_base_shortcuts(config)
    unwrap(base)
    base.empty_cache()  # the memory of the tests must not count for a trial
    paths = own.within(max(windows(config), default=0) <= LONGEST) if expected is None else own.both(expected)
    if paths.own_attention and not varlen_attention.is_installed(base.model):
        varlen_attention.install(base.model)
    if not paths.own_attention and varlen_attention.is_installed(base.model):
        varlen_attention.uninstall(base.model)
    return paths


# Fields of a base that do not affect shortcuts, each with the reason.
IN_CONFIG = {
    "id": "the configuration names the architecture",
    "revision": "the configuration names the architecture",
    "trust_remote_code": "the configuration names the architecture",
}


def tiny_base_shortcuts(config: Any) -> Shortcuts | None:
    """Return the shortcuts that a tiny base of this architecture allows on the CPU; None if it cannot be made."""
    try:
        return _remembered([config_key(config), "twin"], lambda: _examine_tiny_base(config))
    except Exception:  # small sizes may break an architecture in any way; then the base itself decides
        return None


def _examine_tiny_base(config: Any) -> Shortcuts:
    model: Any = tiny_base.tiny_model(config)
    if model is None:
        raise ModelError("no tiny base of this architecture can be made")
    spec = ModelSpec(id="twin")
    info = info_of(model, model.config, name="twin", fingerprint="")
    return examine(make_base(model, SimpleNamespace(pad_token_id=0), info, spec, "cpu"))


def _remembered(key: object, test: Callable[[], Shortcuts]) -> Shortcuts:
    """Return the stored result of a test, or run the test and store its result. A damaged file is replaced."""
    file = cache_dir() / "paths" / f"{digest(key)}.json"
    return remembered(file, test, lambda raw: Shortcuts(**{f.name: raw[f.name] for f in fields(Shortcuts)}), asdict)
