"""Results as JSON. Each names its run and carries a digest, so that copied and edited files are detected."""

import hashlib
import json
import types
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from lorasweep.adapters.methods.table import DEFAULT, METHODS
from lorasweep.core.result import BaseScore, Cost, Point, Probe, Sample, TrialResult, TrialState
from lorasweep.core.spec import DataSpec, EvalSpec, ModelSpec, ProbeSpec, TrainSpec, TrialSpec

DIGEST, RUN = "digest", "run"  # keys that a file holds in addition to the result


def to_json(result: TrialResult, run: str) -> dict[str, Any]:
    """Return a result as JSON, with its run and a digest of both."""
    raw = json.loads(json.dumps({RUN: run, **asdict(result)}, default=str))  # as it will be read back
    return {DIGEST: _digest(raw), **raw}


def from_json(raw: Any, run: str, number: int) -> TrialResult:
    """Rebuild the result of a trial of this run. Results of older versions have no digest.

    Raises:
        ValueError: a value has the wrong type, the file was edited, or it belongs to another trial or run.
    """
    if not isinstance(raw, dict):
        raise ValueError(f"it holds {type(raw).__name__}, not an object")
    content = {key: value for key, value in raw.items() if key != DIGEST}
    if DIGEST in raw and raw[DIGEST] != _digest(content):
        raise ValueError("it was edited after it was written: its digest does not match")
    if (written_by := content.pop(RUN, run)) != run:
        raise ValueError(f"it was copied from another run, {written_by}")
    result = result_from_json(content)
    if wrong := mismatch(TrialResult, result, "result"):
        raise ValueError(wrong)
    if result.number != number:
        raise ValueError(f"it is the result of trial {result.number}")
    return result


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def mismatch(hint: Any, value: Any, path: str) -> str:
    """Return the path of the first value that is not of its annotated type, empty if all are."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return ""
    if isinstance(hint, type) and is_dataclass(hint) and isinstance(value, hint):
        hints = get_type_hints(type(value))  # a method's settings have more fields than `AdapterSpec`
        found = (mismatch(hints[f.name], getattr(value, f.name), f"{path}.{f.name}") for f in fields(value))
        return next(filter(None, found), "")
    if origin in (Union, types.UnionType):
        problems = [mismatch(argument, value, path) for argument in arguments]
        return "" if "" in problems else problems[0]
    if origin is Literal:
        return "" if value in arguments else f"{path} is {value!r}, not one of {', '.join(map(str, arguments))}"
    if origin is dict and isinstance(value, dict):
        found = (mismatch(arguments[1], v, f"{path}.{k}") for k, v in value.items())
        return next(filter(None, found), "")
    if origin is tuple and isinstance(value, tuple):
        found = (mismatch(arguments[0], v, f"{path}[{i}]") for i, v in enumerate(value))
        return next(filter(None, found), "")
    kind = origin or hint
    is_number = kind is float and isinstance(value, int)
    is_wrong_bool = isinstance(value, bool) and kind in (int, float)
    if (isinstance(value, kind) or is_number) and not is_wrong_bool:
        return ""
    return f"{path} is of type {type(value).__name__}, not {getattr(kind, '__name__', kind)}"


def result_from_json(raw: dict[str, Any]) -> TrialResult:
    """Rebuild a result from the JSON of its `dataclasses.asdict`."""
    raw = {key: value for key, value in raw.items() if key != "fingerprint"}  # older versions stored it
    raw["spec"] = spec_from_json(raw["spec"])
    raw["state"] = TrialState(raw["state"])
    raw["history"] = tuple(Point(**p) for p in raw["history"])
    raw["probes"] = tuple(Probe(**p) for p in raw["probes"])
    raw["samples"] = tuple(Sample(**s) for s in raw["samples"])
    raw["scores"] = tuple(raw["scores"])
    raw["num_tokens"] = tuple(raw.get("num_tokens", ()))
    raw["cost"] = Cost(**raw["cost"])
    raw["base"] = _base_from_json(raw.get("base"))
    return TrialResult(**raw)


def _base_from_json(raw: dict[str, Any] | None) -> BaseScore | None:
    if raw is None:
        return None
    return BaseScore(**{**raw, "scores": tuple(raw["scores"]), "num_tokens": tuple(raw["num_tokens"])})


def spec_from_json(raw: dict[str, Any]) -> TrialSpec:
    """Rebuild a spec from the JSON of its `dataclasses.asdict`."""
    lora = {"method": DEFAULT, **raw["lora"], "target_modules": tuple(raw["lora"]["target_modules"])}
    probes = tuple(ProbeSpec(**p) for p in raw["eval"]["probes"])
    evaluation = {**raw["eval"], "metrics": tuple(raw["eval"]["metrics"]), "probes": probes}
    return TrialSpec(
        model=ModelSpec(**raw["model"]),
        lora=METHODS[lora["method"]].settings(**lora),
        train=TrainSpec(**raw["train"]),
        data=DataSpec(**{**raw["data"], "templates": tuple(raw["data"].get("templates", ()))}),
        eval=EvalSpec(**evaluation),
    )
