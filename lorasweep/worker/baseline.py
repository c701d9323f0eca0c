"""Baseline scores on the validation examples of a trial: the untouched base, chance, and the majority class.

Each combination of base, data and evaluation is scored once; the cache keeps the scores.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

from evaluation.metrics import METRICS
from lorasweep.core.files import write_json
from lorasweep.core.result import BaseScore
from lorasweep.core.spec import EvalSpec, covered, digest
from lorasweep.data.cache import cache_dir
from lorasweep.data.render import TokenRow
from lorasweep.data.tasks import Task
from lorasweep.models.base import Base
from lorasweep.worker.scoring import PackedModel, SuiteScore, score_suite, scored_content


def base_score(base: Base, task: Task, spec: EvalSpec) -> BaseScore:
    """Return the base's scores on the validation examples, for every metric of the evaluation."""
    rows = task.validation[: spec.limit]
    found = _cached_or_measured(base, rows, spec)
    return BaseScore(
        metrics=found.metrics,
        scores=found.scores[spec.objective],
        num_tokens=found.num_tokens if METRICS[spec.objective].token_mean else (),
        chance=chance_levels(rows, spec.all_metrics),
        majority=majority_scores(task.train, rows, spec.all_metrics),
    )


def chance_levels(rows: Sequence[TokenRow], metrics: Sequence[str]) -> dict[str, float]:
    """Return the expected accuracy of guessing among each row's options; empty if a row has no options."""
    if not rows or not all(row.options for row in rows):
        return {}
    num_options = [len(row.options) for row in rows]
    return {name: guess(num_options) for name in metrics if (guess := METRICS[name].chance)}


def majority_scores(train: Sequence[TokenRow], rows: Sequence[TokenRow], metrics: Sequence[str]) -> dict[str, float]:
    """Return the scores of always answering the most frequent training label; empty if rows differ in their labels.

    Of equally frequent labels, the first in alphabetical order counts.
    """
    if not train or not rows or len({row.options for row in (*train, *rows)}) != 1 or not rows[0].options:
        return {}
    counts = Counter(row.reference for row in train)
    label = min(counts, key=lambda name: (-counts[name], name))
    references = [row.reference for row in rows]
    return {name: of([label] * len(rows), references) for name in metrics if (of := METRICS[name].of_labels)}


def _cached_or_measured(base: Base, rows: Sequence[TokenRow], spec: EvalSpec) -> SuiteScore:
    """Read the scores from the cache, or measure and store them. A damaged file is replaced."""
    path = cache_dir() / "base-scores" / f"{_key(base, rows, spec)}.json"
    try:
        kept = json.loads(path.read_text())
        scores = {name: tuple(values) for name, values in kept["scores"].items()}
        found = SuiteScore(metrics=dict(kept["metrics"]), scores=scores, num_tokens=tuple(kept["num_tokens"]))
        if len(found.scores[spec.objective]) == len(rows):
            return found
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass
    [found] = score_suite(PackedModel(base, None, (), spec.batch_rows), rows, spec.all_metrics, spec)
    write_json(path, {"metrics": found.metrics, "scores": found.scores, "num_tokens": found.num_tokens})
    return found


def _key(base: Base, rows: Sequence[TokenRow], spec: EvalSpec) -> str:
    settings = [spec.all_metrics, *covered(spec, NOT_IN_KEY).values()]
    return digest([base.info.fingerprint, asdict(base.spec), base.device.type, scored_content(rows), settings])


IN_METRICS = "the key lists all metrics"
NO_RUNGS = "the base has no rungs"

# Fields of an evaluation that the base's scores do not depend on, each with the reason.
NOT_IN_KEY = {
    "objective": IN_METRICS,
    "metrics": IN_METRICS,
    "limit": "the key covers the rows themselves",
    "batch_rows": "it changes the size of passes, not the scores",
    "rungs": NO_RUNGS,
    "rung_factor": NO_RUNGS,
    "rung_limit": NO_RUNGS,
    "rung_start": NO_RUNGS,
    "num_samples": "no samples of the base are kept",
    "probes": "their scores are cached separately",
}
