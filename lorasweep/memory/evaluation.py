"""Peak bytes of evaluation: no gradients, but all slots in one pass, with the logits of every label."""

from collections.abc import Sequence

from evaluation.metrics import METRICS
from evaluation.sizes import LOGIT_ROWS, rows_per_copy, trees_per_copy
from lorasweep.core.sizes import DTYPE_BYTES
from lorasweep.core.spec import TrialSpec
from lorasweep.memory.lengths import Lengths
from lorasweep.memory.shape import Shape


def evaluation_bytes(shape: Shape, specs: Sequence[TrialSpec], lengths: Lengths) -> int:
    """Return the peak bytes of evaluating all of these trials together."""
    first = specs[0]
    return max(_scoring(shape, first, lengths, len(specs)), _writing(shape, first, lengths, len(specs)))


def _scoring(shape: Shape, spec: TrialSpec, lengths: Lengths, copies: int) -> int:
    """Return the bytes of one layer's tensors or all logits, and of the mask that hides options from each other."""
    each = rows_per_copy(spec.eval.batch_rows, copies)
    if lengths.has_options:
        each = trees_per_copy(spec.eval.batch_rows, copies, max(1, lengths.scored))
    rows = copies * each
    width = DTYPE_BYTES[spec.model.dtype]
    labels = rows * lengths.scored_labels
    # Logits become fp32 and then log-probabilities: with options all at once, otherwise LOGIT_ROWS at a time.
    at_once = labels if lengths.has_options else min(labels, LOGIT_ROWS)
    logits = labels * width + at_once * (4 if width == 4 else 8)
    mask = 4 * rows * lengths.scored**2 if lengths.has_options else 0
    return int(max(rows * lengths.scored * _layer(shape, width), logits * shape.vocab_size) + mask)


def _writing(shape: Shape, spec: TrialSpec, lengths: Lengths, copies: int) -> int:
    """Return the bytes of the key-value cache, with one layer's tensors for the prompts or one layer's new cache."""
    if not any(METRICS[name].from_texts for name in spec.eval.all_metrics) and not spec.eval.num_samples:
        return 0
    width = DTYPE_BYTES[spec.model.dtype]
    rows = copies * rows_per_copy(spec.eval.batch_rows, copies)
    token = 2 * width * shape.num_kv_heads * shape.head_size  # of one layer
    reading = lengths.prompt * (shape.num_layers * token + _layer(shape, width))
    answering = (lengths.prompt + spec.eval.max_new_tokens) * (shape.num_layers + 1) * token
    return int(rows * (max(reading, answering) + 8 * shape.vocab_size))


def _layer(shape: Shape, width: int) -> int:
    """Return a layer's largest bytes per token: the MLP and the residual stream."""
    return width * (3 * shape.intermediate_size + shape.hidden_size)
