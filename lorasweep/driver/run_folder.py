"""The folder of a sweep: the same settings find it again, and results for other inputs are not mixed with it."""

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from lorasweep.core.errors import ConfigError
from lorasweep.core.spec import digest
from lorasweep.driver.ledger import Ledger
from lorasweep.planning.plan import Plan

# Settings that may differ between launches of a sweep, because they affect no trial.
STUDY_LIMITS = ("trials", "timeout_min", "slots", "keep_adapters", "device_wait_min", "hang_min", "halt_after",
                "retry_failed")  # fmt: skip
PLACES = ("tracking", "devices", "workers", "threads", "executor", "output_dir")
CHANGED = (
    "the data or the base changed since this run began, so its results cannot be compared with new ones; set another "
    "sweep.name or output_dir"
)


def run_folder(plan: Plan) -> Path:
    """Return the folder of a sweep: the sweep's name and a digest of the settings that affect its trials."""
    kept = {k: v for k, v in _given(plan.config).items() if k not in (*PLACES, "sweep")}
    kept["study"] = {k: v for k, v in kept.get("study", {}).items() if k not in STUDY_LIMITS}
    kept["space"] = {key: _given(domain) for key, domain in plan.domains.items()}
    kept["method"] = plan.config.lora.method  # the default of each method's own settings
    return Path(plan.config.output_dir) / f"{plan.config.sweep.name}-{digest(kept)[:8]}"


def _given(value: Any) -> Any:
    """Return settings as mappings, without defaults: a new setting must not rename the folders of earlier runs."""
    if isinstance(value, tuple):
        return [_given(part) for part in value]
    if not is_dataclass(value):
        return value
    found = {f.name: getattr(value, f.name) for f in fields(value) if getattr(value, f.name) != f.default}
    return {name: _given(setting) for name, setting in found.items()}


def check_inputs(plan: Plan, ledger: Ledger) -> None:
    """Compare data and weights with those of earlier launches.

    Raises:
        ConfigError: the folder has results for other data or weights under the same names.
    """
    specs = [trial.spec for trial in plan.trials]
    inputs = {spec.data_key: plan.facts[spec.data_key].content for spec in specs}
    inputs |= {spec.base_key: plan.info(spec.model).fingerprint for spec in specs}
    noted = ledger.noted("inputs")
    has_changed = any(noted.get(key, value) != value for key, value in inputs.items())
    if has_changed and ledger.results:
        raise ConfigError([f"{ledger.folder}: {CHANGED}"])
    if has_changed:
        ledger.drop_checkpoints()
    ledger.note("inputs", noted | inputs)
