"""How much one forward pass of an evaluation takes at a time. No torch: the memory prediction reads it too."""

TOKENS_PER_ROW = 16  # what `batch_rows` counts as one row of a tree; longer rows count as several
LOGIT_ROWS = 1024  # positions normalised in float32 at a time: 600 MB at a vocabulary of 150 000


def rows_per_copy(batch_rows: int, copies: int) -> int:
    """Return the rows that each of `copies` slots gets in a pass of `batch_rows`; at least one."""
    return max(1, batch_rows // copies)


def trees_per_copy(batch_rows: int, copies: int, width: int) -> int:
    """Return the trees of `width` tokens that each of `copies` slots gets in a pass; at least one."""
    return max(1, batch_rows * TOKENS_PER_ROW // (copies * width))
