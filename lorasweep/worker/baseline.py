"""What the untouched base scores on its trials' validation examples, and what is scored without any model.

The base is scored once per base, data and evaluation; the scores are kept in the cache.
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
from lorasweep.worker.scoring import Asked, SuiteScore, score_suite, scored_content


def base_score(base: Base, task: Task, spec: EvalSpec) -> BaseScore:
    """Return the base's scores on the validation examples, by every metric of the evaluation."""
    rows = task.validation[: spec.limit]
    found = _kept_or_measured(base, rows, spec)
    return BaseScore(
        metrics=found.metrics,
        scores=found.scores[spec.objective],
        num_tokens=found.num_tokens if METRICS[spec.objective].token_mean else (),
        chance=chance_levels(rows, spec.all_metrics),
        majority=majority_scores(task.train, rows, spec.all_metrics),
    )


def chance_levels(rows: Sequence[TokenRow], metrics: Sequence[str]) -> dict[str, float]:
    """Return the expected accuracy of guessing among each row's options; nothing where rows have no options."""
    if not rows or not all(row.options for row in rows):
        return {}
    num_options = [len(row.options) for row in rows]
    return {name: guess(num_options) for name in metrics if (guess := METRICS[name].chance)}


def majority_scores(train: Sequence[TokenRow], rows: Sequence[TokenRow], metrics: Sequence[str]) -> dict[str, float]:
    """Return the scores of always answering the most frequent label of the training rows, where all share their labels.

    Of labels that are equally frequent the first in alphabetical order counts.
    """
    if not train or not rows or len({row.options for row in (*train, *rows)}) != 1 or not rows[0].options:
        return {}
    counts = Counter(row.reference for row in train)
    label = min(counts, key=lambda name: (-counts[name], name))
    references = [row.reference for row in rows]
    return {name: of([label] * len(rows), references) for name in metrics if (of := METRICS[name].of_labels)}


def _kept_or_measured(base: Base, rows: Sequence[TokenRow], spec: EvalSpec) -> SuiteScore:
    """Read the scores from the cache, or measure them. A damaged file is measured anew."""
    path = cache_dir() / "base-scores" / f"{_key(base, rows, spec)}.json"
    try:
        kept = json.loads(path.read_text())
        scores = {name: tuple(values) for name, values in kept["scores"].items()}
        found = SuiteScore(metrics=dict(kept["metrics"]), scores=scores, num_tokens=tuple(kept["num_tokens"]))
        if len(found.scores[spec.objective]) == len(rows):
            return found
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass
    [found] = score_suite(Asked(base, None, (), spec.batch_rows), rows, spec.all_metrics, spec)
    write_json(path, {"metrics": found.metrics, "scores": found.scores, "num_tokens": found.num_tokens})
    return found


def _key(base: Base, rows: Sequence[TokenRow], spec: EvalSpec) -> str:
    asked = [spec.all_metrics, *covered(spec, NOT_ASKED).values()]
    return digest([base.info.fingerprint, asdict(base.spec), base.device.type, scored_content(rows), asked])


IN_METRICS = "all metrics are named beside it"
NO_RUNGS = "the base has no rungs"

# Fields of an evaluation that the base's scores do not depend on, each with the reason.
NOT_ASKED = {
    "objective": IN_METRICS,
    "metrics": IN_METRICS,
    "limit": "the rows themselves are named",
    "batch_rows": "it divides the passes, not the scores",
    "rungs": NO_RUNGS,
    "rung_factor": NO_RUNGS,
    "rung_limit": NO_RUNGS,
    "rung_start": NO_RUNGS,
    "num_samples": "the base writes no samples",
    "probes": "their scores are kept apart",
}
