"""Train, validation and test examples of a data spec.

Without a validation file, a share of the training examples is held out by a hash of each raw row's question: the same
examples for any order of the file, template and base, with equal questions in the same split.
"""

import hashlib
from dataclasses import dataclass, replace

from lorasweep.core.errors import ConfigError, DataError
from lorasweep.core.spec import DataSpec
from lorasweep.data.formats import Example, Layout, read_examples
from lorasweep.data.source import read_rows

MIN_VALIDATION = 50  # validation rows: with fewer, the 95 % interval of an accuracy is wider than 0.27 at its middle


@dataclass(frozen=True, slots=True, kw_only=True)
class Splits:
    """Examples by split, and a sentence for each skipped row."""

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...] = ()
    skipped: tuple[str, ...] = ()


def read_splits(spec: DataSpec) -> Splits:
    """Return the examples of every split.

    Raises:
        DataError: a source is missing or malformed, or a split would be empty.
        ConfigError: several sources are missing or malformed.
    """
    read = _read_all(spec)
    train, validation, test = (examples for examples, _ in read)
    skipped = [sentence for _, found in read for sentence in found]
    if not spec.validation:
        train, validation = set_aside(train, spec.validation_share, spec.split_seed)
    if not train or not validation:
        raise DataError(f"{spec.train}: too few rows for training and validation; set data.validation")
    # Collect labels before `limit` removes examples.
    labels = _labels([*train, *validation, *test], spec) if spec.format == "classification" else ()
    # Files are often sorted by label, so a part of a file must be drawn at random.
    train = _shuffled(train, spec.split_seed)[: spec.limit] if spec.limit else train
    validation, test = _shuffled(validation, spec.split_seed), _shuffled(test, spec.split_seed)
    splits = Splits(train=tuple(train), validation=tuple(validation), test=tuple(test), skipped=tuple(skipped))
    return _with_options(splits, labels) if labels else splits


def _read_all(spec: DataSpec) -> list[tuple[list[Example], list[str]]]:
    """Return the examples and skipped rows of train, validation and test; raise all of their errors together."""
    read: list[tuple[list[Example], list[str]]] = []
    problems: list[str] = []
    for source in (spec.train, spec.validation, spec.test):
        try:
            read.append(read_source(source, spec) if source else ([], []))
        except DataError as error:
            problems.append(str(error))
    if len(problems) == 1:
        raise DataError(problems[0])
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return read


def read_source(source: str, spec: Layout) -> tuple[list[Example], list[str]]:
    """Return the examples of a source, and a sentence for each skipped row."""
    return read_examples(read_rows(source), spec)


def set_aside(examples: list[Example], share: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Split examples in two: `share` of them, those whose questions have the lowest hashes, form the second part.

    It gets at least `MIN_VALIDATION` examples if there are twice as many, and at most half. Equal questions stay
    together, so its size may differ by the rows of one question.

    Returns:
        The examples kept, and the examples set aside.
    """
    most = len(examples) // 2
    wanted = min(max(round(share * len(examples)), MIN_VALIDATION), most)
    groups: dict[str, list[Example]] = {}
    for example in examples:
        groups.setdefault(example.question, []).append(example)
    chosen: set[str] = set()
    num = 0
    for question in sorted(groups, key=lambda q: (_hash_fraction(groups[q][0], seed), q)):
        if num >= wanted:
            break
        if num + len(groups[question]) <= most:
            chosen.add(question)
            num += len(groups[question])
    return [e for e in examples if e.question not in chosen], [e for e in examples if e.question in chosen]


def _shuffled(examples: list[Example], seed: int) -> list[Example]:
    """Return the examples in an order that depends only on their questions and rows."""
    return sorted(examples, key=lambda example: (_hash_fraction(example, seed + 1), example.row))


def _hash_fraction(example: Example, seed: int) -> float:
    return int(hashlib.sha256(f"{seed}\0{example.question}".encode()).hexdigest()[:8], 16) / 2**32


def _labels(examples: list[Example], spec: DataSpec) -> tuple[str, ...]:
    labels = tuple(sorted({example.completion for example in examples}))
    if len(labels) < 2:
        raise DataError(f"{spec.train}: every row has the same label {labels[0]!r}; set data.label_column")
    return labels


def _with_options(splits: Splits, labels: tuple[str, ...]) -> Splits:
    return replace(
        splits,
        train=tuple(replace(e, options=labels) for e in splits.train),
        validation=tuple(replace(e, options=labels) for e in splits.validation),
        test=tuple(replace(e, options=labels) for e in splits.test),
    )
