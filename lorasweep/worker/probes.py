"""Score a base on its probes, once per base and precision, and measure how much an adapted model forgot."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

from evaluation.forgetting import FORGETTING, ProbeDrop, ProbeScore, forgetting
from evaluation.metrics import METRICS
from evaluation.statistics import Interval
from lorasweep.adapters.bank import Bank
from lorasweep.adapters.slot import Slot
from lorasweep.core.files import write_json
from lorasweep.core.result import Probe
from lorasweep.core.spec import EvalSpec, ProbeSpec, digest
from lorasweep.data.cache import cache_dir
from lorasweep.data.render import TokenRow
from lorasweep.data.tasks import load_probe
from lorasweep.models.base import Base
from lorasweep.models.tokenizer import tokenizer_key
from lorasweep.worker.scoring import PackedModel, score_suite, scored_content

Scores = dict[str, ProbeScore]


class Probes:
    """The probes of an evaluation on one base, with the base's own scores."""

    def __init__(self, base: Base, spec: EvalSpec) -> None:
        self.base = base
        self.spec = spec
        key = tokenizer_key(base.tokenizer)
        self.rows = {probe.name: load_probe(probe, base.tokenizer, key) for probe in spec.probes}
        self.before = self._baseline()

    def forgotten(self, bank: Bank, slots: Sequence[Slot]) -> list[tuple[tuple[Probe, ...], dict[str, float]]]:
        """Return, per slot, every probe before and after training, and metrics with the mean drops and intervals."""
        scored = self._score(PackedModel(self.base, bank, tuple(slots), self.spec.batch_rows))
        return [self._compare(after) for after in scored]

    def _compare(self, after: Scores) -> tuple[tuple[Probe, ...], dict[str, float]]:
        if not after:
            return (), {}
        outcome = forgetting(self.before, after)
        metrics = {f"probe/{p.name}/{p.metric}": p.after for p in outcome.probes}
        for name in FORGETTING:
            metrics |= _with_interval(name, getattr(outcome, name))
        return tuple(_probe(p) for p in outcome.probes), metrics

    def _score(self, packed: PackedModel) -> list[Scores]:
        scored: list[Scores] = [{} for _ in range(packed.copies)]
        for probe in self.spec.probes:
            rows = self.rows[probe.name]
            spec = replace(self.spec, end_token=probe.end_token)
            for scores, result in zip(scored, score_suite(packed, rows, [probe.metric], spec), strict=True):
                scores[probe.name] = _probe_score(probe, rows, result.scores[probe.metric])
        return scored

    def _baseline(self) -> Scores:
        """Read the base's scores from the cache, or measure and store them. A damaged file is replaced."""
        path = cache_dir() / "baselines" / f"{self._key()}.json"
        try:
            kept = json.loads(path.read_text())
            return {
                p.name: ProbeScore(**{**kept[p.name], "scores": tuple(kept[p.name]["scores"])})
                for p in self.spec.probes
            }
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            scores = self._score(PackedModel(self.base, None, (), self.spec.batch_rows))[0]
            write_json(path, {name: asdict(score) for name, score in scores.items()})
            return scores

    def _key(self) -> str:
        contents: Mapping[str, object] = {name: scored_content(rows) for name, rows in self.rows.items()}
        kinds = [asdict(probe) for probe in self.spec.probes]
        return digest([self.base.info.fingerprint, asdict(self.base.spec), self.base.device.type, contents, kinds,
                       self.spec.max_new_tokens])  # fmt: skip


def _with_interval(name: str, interval: Interval | None) -> dict[str, float]:
    """Return a drop and its 95 % interval as metrics."""
    if interval is None:
        return {}
    return {name: interval.value, f"{name}/low": interval.low, f"{name}/high": interval.high}


def _probe_score(probe: ProbeSpec, rows: Sequence[TokenRow], scores: tuple[float, ...]) -> ProbeScore:
    guess = METRICS[probe.metric].chance
    chance = guess([len(row.options) for row in rows]) if guess else 0.0
    return ProbeScore(name=probe.name, metric=probe.metric, scores=scores, chance=chance)


def _probe(drop: ProbeDrop) -> Probe:
    return Probe(
        name=drop.name,
        metric=drop.metric,
        before=drop.before,
        after=drop.after,
        drop=drop.drop.value,
        relative_drop=0.0 if drop.relative_drop is None else drop.relative_drop,
        low=drop.drop.low,
        high=drop.drop.high,
        note=drop.left_out or "",
    )
