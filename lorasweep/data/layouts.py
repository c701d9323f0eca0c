"""Which format rows have, found from the names of their columns."""

from collections.abc import Collection

from lorasweep.core.errors import DataError
from lorasweep.data.formats import COMPLETION_KEYS
from lorasweep.data.identity import LABEL_KEYS, PROMPT_KEYS, TEXT_KEYS

# A format and, for each column that it needs, the names that the column may have. The first that fits is taken, so the
# formats that need more stand above those that need less.
COLUMNS: tuple[tuple[str, tuple[tuple[str, ...], ...]], ...] = (
    ("messages", (("messages", "conversations"),)),
    ("multiple_choice", (PROMPT_KEYS, ("options",), ("answer",))),
    ("alpaca", (("instruction",), ("output",))),
    ("prompt_completion", (PROMPT_KEYS, COMPLETION_KEYS)),
    ("classification", (TEXT_KEYS, LABEL_KEYS)),
    ("text", (("text", "content"),)),
)


def format_of(columns: Collection[str], source: str) -> str:
    """Return the format whose columns these are.

    Raises:
        DataError: no format has such columns.
    """
    for name, needed in COLUMNS:
        if all(set(keys) & set(columns) for keys in needed):
            return name
    known = "; ".join(f"{name}: {', '.join(keys[0] for keys in needed)}" for name, needed in COLUMNS)
    raise DataError(
        f"{source}: the columns {', '.join(map(repr, columns))} are those of no format; rename them, or give format= "
        f"and the settings that name your columns, such as data.text_column and data.label_column. Formats: {known}"
    )
