"""Compare predicted texts with reference texts: one score per example, in [0, 1], higher is better.

Scores per example rather than one mean, because trials are compared example by example (`evaluation.statistics`).
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache, partial
from statistics import fmean
from types import SimpleNamespace
from typing import Literal

RougeName = Literal["rouge1", "rouge2", "rougeL"]

# Scripts that do not separate words by spaces; Hangul does, but attaches particles to words.
SPACELESS = (
    r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # kana, Han and its extensions
    r"\u1100-\u11ff\uac00-\ud7ff"  # Hangul
)
WORD_OR_CHARACTER = re.compile(rf"[{SPACELESS}]|[^\W_{SPACELESS}]+")
SPACELESS_CHARACTER = re.compile(rf"([{SPACELESS}])")
ARTICLE = re.compile(r"\b(a|an|the)\b")


def normalise(text: str, *, casefold: bool = False) -> str:
    """Strip the text and replace every run of white space (including the ideographic space) by one blank."""
    collapsed = " ".join(text.split())
    return collapsed.casefold() if casefold else collapsed


def exact_match(predictions: Sequence[str], references: Sequence[str], *, casefold: bool = False) -> list[float]:
    """Return 1 for each pair that is equal after `normalise`, else 0. Raises ValueError on unequal lengths."""
    same = partial(normalise, casefold=casefold)
    return [float(same(p) == same(r)) for p, r in zip(predictions, references, strict=True)]


def rouge(
    predictions: Sequence[str], references: Sequence[str], *, name: RougeName, use_stemmer: bool = False
) -> list[float]:
    """Return the ROUGE F-measure per example (Lin, 2004), by `rouge_score`. Raises ValueError on unequal lengths.

    On ASCII text it equals `rouge_score`, whose tokenizer keeps only [a-z0-9], so that equal Japanese or Russian texts
    score 0; the tokenizer here keeps words of every script, and single characters if words have no spaces.
    """
    f_measure = _rouge_f_measure(name, use_stemmer)
    return [f_measure(r, p) for p, r in zip(predictions, references, strict=True)]


def token_f1(predictions: Sequence[str], references: Sequence[str]) -> list[float]:
    """Return the harmonic mean of token precision and recall, like SQuAD's script; two empty answers score 1.

    Lower-cased, without punctuation and English articles (Rajpurkar et al., 2016); in scripts without spaces each
    character is a token, as in MLQA (Lewis et al., 2020). Raises ValueError on unequal lengths.
    """
    return [_overlap_f1(_answer_tokens(p), _answer_tokens(r)) for p, r in zip(predictions, references, strict=True)]


def label_f1(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Return F1 = 2 TP / (2 TP + FP + FN) of each label that occurs in the references, after `normalise`.

    A generated answer that is not a label lowers the recall of the true label and adds no label: averaging over
    predicted labels too, as scikit-learn does by default, would let one wrong word halve a binary score.
    """
    pairs = [(normalise(p), normalise(r)) for p, r in zip(predictions, references, strict=True)]
    hits = Counter(r for p, r in pairs if p == r)
    predicted, actual = Counter(p for p, _ in pairs), Counter(r for _, r in pairs)
    return {label: 2 * hits[label] / (predicted[label] + actual[label]) for label in sorted(actual)}


def macro_f1(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Return the unweighted mean of `label_f1`. It has no per-example scores."""
    return fmean(label_f1(predictions, references).values())


@cache
def _rouge_f_measure(name: RougeName, use_stemmer: bool) -> Callable[[str, str], float]:
    # rouge_score imports nltk, which takes 2 s.
    from nltk.stem.porter import PorterStemmer  # type: ignore[import-untyped,unused-ignore]
    from rouge_score.rouge_scorer import RougeScorer  # type: ignore[import-untyped,unused-ignore]

    stem = PorterStemmer().stem if use_stemmer else None
    scorer = RougeScorer([name], tokenizer=SimpleNamespace(tokenize=partial(_rouge_tokens, stem=stem)))
    return lambda reference, prediction: float(scorer.score(reference, prediction)[name].fmeasure)


def _rouge_tokens(text: str, stem: Callable[[str], str] | None) -> list[str]:
    tokens = WORD_OR_CHARACTER.findall(unicodedata.normalize("NFKC", text).lower())
    # ROUGE-1.5.5 stems only words of more than three letters.
    return [stem(token) if len(token) > 3 else token for token in tokens] if stem else tokens


def _answer_tokens(text: str) -> list[str]:
    kept = "".join(c for c in text.lower() if c not in string.punctuation and unicodedata.category(c)[0] != "P")
    return SPACELESS_CHARACTER.sub(r" \1 ", ARTICLE.sub(" ", kept)).split()


def _overlap_f1(predicted: list[str], actual: list[str]) -> float:
    if not predicted or not actual:
        return float(predicted == actual)
    return 2 * (Counter(predicted) & Counter(actual)).total() / (len(predicted) + len(actual))
