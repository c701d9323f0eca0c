"""The number of rows in a forward pass of an evaluation. Without torch, because the memory prediction uses it too."""

TOKENS_PER_ROW = 16  # a tree counts as one of `batch_rows` for every so many tokens
LOGIT_ROWS = 1024  # positions normalised in float32 at a time: 600 MB with a vocabulary of 150 000


def rows_per_copy(batch_rows: int, copies: int) -> int:
    """Return the number of rows that each of `copies` slots gets in a pass of `batch_rows`; at least one."""
    return max(1, batch_rows // copies)


def trees_per_copy(batch_rows: int, copies: int, width: int) -> int:
    """Return the number of trees of `width` tokens that each of `copies` slots gets in a pass; at least one."""
    return max(1, batch_rows * TOKENS_PER_ROW // (copies * width))
