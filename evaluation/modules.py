"""The plain metrics as `evaluate` modules, for use with `evaluate.combine` or an `Evaluator`.

`evaluate.load("rouge")` downloads a script from the hub and fails offline; `load` here needs no network. Importing this
module takes about 5 s, so no other module imports it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

# One import per line: evaluate.load("path.py") cannot parse `import datasets, evaluate`.
import datasets  # type: ignore[import-untyped,unused-ignore]
import evaluate  # type: ignore[import-untyped,unused-ignore]

from evaluation import metrics, text_scores


class Accuracy(evaluate.Metric):  # type: ignore[misc,unused-ignore]
    """Share of predicted indices equal to the target index."""

    def _info(self) -> evaluate.MetricInfo:
        return _info("accuracy", datasets.Value("int64"))

    def _compute(self, predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
        return {"accuracy": metrics.mean(metrics.accuracy(predictions, references))}


class F1(evaluate.Metric):  # type: ignore[misc,unused-ignore]
    """Macro F1 over the labels of the references."""

    def _info(self) -> evaluate.MetricInfo:
        return _info("macro_f1", datasets.Value("string"))

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        return {"macro_f1": text_scores.macro_f1(predictions, references)}


class ExactMatch(evaluate.Metric):  # type: ignore[misc,unused-ignore]
    """Share of predictions equal to their reference, ignoring white space."""

    def _info(self) -> evaluate.MetricInfo:
        return _info("exact_match", datasets.Value("string"))

    def _compute(
        self, predictions: Sequence[str], references: Sequence[str], casefold: bool = False
    ) -> dict[str, float]:
        return {"exact_match": metrics.mean(text_scores.exact_match(predictions, references, casefold=casefold))}


class Rouge(evaluate.Metric):  # type: ignore[misc,unused-ignore]
    """Mean ROUGE-1, ROUGE-2 and ROUGE-L F-measure."""

    def _info(self) -> evaluate.MetricInfo:
        return _info("rougeL", datasets.Value("string"))

    def _compute(
        self, predictions: Sequence[str], references: Sequence[str], use_stemmer: bool = False
    ) -> dict[str, float]:
        names: tuple[text_scores.RougeName, ...] = get_args(text_scores.RougeName)
        return {
            name: metrics.mean(text_scores.rouge(predictions, references, name=name, use_stemmer=use_stemmer))
            for name in names
        }


MODULES: dict[str, type[evaluate.Metric]] = {
    "accuracy": Accuracy,
    "f1": F1,
    "exact_match": ExactMatch,
    "rouge": Rouge,
}


def load(name: str, *, keep_in_memory: bool = True, cache_dir: Path | None = None) -> evaluate.Metric:
    """Return the module of this name, without network. Raises ValueError on an unknown name.

    In memory by default: on disk, `evaluate` takes a file lock per module, and parallel trials wait for each other. It
    creates its folder either way, under `cache_dir` or Hugging Face's cache.
    """
    if name not in MODULES:
        raise ValueError(f"no evaluate module named {name!r}; known: {', '.join(MODULES)}")
    return MODULES[name](keep_in_memory=keep_in_memory, cache_dir=cache_dir and str(cache_dir))


def _info(name: str, feature: datasets.Value) -> evaluate.MetricInfo:
    return evaluate.MetricInfo(
        description=metrics.METRICS[name].description,
        citation="",
        inputs_description="predictions and references: two lists of the same length",
        features=datasets.Features({"predictions": feature, "references": feature}),
    )
