"""The tokenised examples of a task or a probe, for one base's tokenizer."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from evaluation.metrics import METRICS
from lorasweep.core.errors import DataError
from lorasweep.core.spec import DataSpec, ProbeSpec
from lorasweep.data.cache import cached_rows
from lorasweep.data.formats import Example
from lorasweep.data.render import TokenRow, render
from lorasweep.data.splits import read_source, read_splits


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Rows by split; `notes` list rows that were cut or left out."""

    train: tuple[TokenRow, ...]
    validation: tuple[TokenRow, ...]
    test: tuple[TokenRow, ...]
    notes: tuple[str, ...] = ()


def load_task(spec: DataSpec, tokenizer: Any, tokenizer_key: str) -> Task:
    """Read, render and tokenise every split.

    Raises:
        DataError: a source is missing or malformed, or no row is left.
    """
    splits = read_splits(spec)
    notes = [f"left out: {sentence}" for sentence in splits.skipped]
    rows: dict[str, tuple[TokenRow, ...]] = {}
    for name in ("train", "validation", "test"):
        examples: tuple[Example, ...] = getattr(splits, name)
        length = spec.max_length if name == "train" else spec.scored_length
        rows[name] = _rows(examples, tokenizer, tokenizer_key, length)
        notes += _cuts(f"data.{name}", examples, rows[name], length)
    if not rows["train"] or not rows["validation"]:
        raise DataError(f"{spec.train}: no answer starts within data.max_length={spec.max_length}; raise it")
    return Task(train=rows["train"], validation=rows["validation"], test=rows["test"], notes=tuple(notes))


def load_probe(spec: ProbeSpec, tokenizer: Any, tokenizer_key: str) -> tuple[TokenRow, ...]:
    """Read, render and tokenise a probe.

    Raises:
        DataError: its source is missing or malformed, or its metric needs options and its rows have none.
    """
    examples, _ = read_source(spec.path, spec)
    rows = _rows(tuple(examples[: spec.limit]), tokenizer, tokenizer_key, spec.max_length)
    if METRICS[spec.metric].needs_options and not all(row.options for row in rows):
        raise DataError(f"{spec.path}: probe {spec.name!r} is scored by {spec.metric}, but its rows have no 'options'; "
                        "add them or set metric=loss or exact_match")  # fmt: skip
    return rows


def _rows(examples: tuple[Example, ...], tokenizer: Any, key: str, max_length: int) -> tuple[TokenRow, ...]:
    if not examples:
        return ()
    return tuple(cached_rows(examples, key, max_length, partial(render, examples, tokenizer, max_length)))


def _cuts(name: str, examples: tuple[Example, ...], rows: tuple[TokenRow, ...], max_length: int) -> list[str]:
    notes = []
    if any("/" in row.row for row in rows):
        notes.append(
            f"{name}: the base's chat template rewrites earlier turns, so {len(examples)} chats are {len(rows)} rows, "
            "one per answer"
        )
    kept = {row.row.partition("/")[0] for row in rows}
    if lost := sum(example.row not in kept for example in examples):
        notes.append(f"{name}: {lost} of {len(examples)} rows left out, their answers start after {max_length} tokens")
    if cut := sum(row.is_truncated for row in rows):
        notes.append(f"{name}: {cut} of {len(rows)} rows cut to {max_length} tokens, in the middle of their prompts")
    return notes
