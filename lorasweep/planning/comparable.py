"""Refuse a sweep before training if its trials could not be compared."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from evaluation.metrics import LOSS_PER_BYTE, METRICS
from lorasweep.core.spec import TrialSpec
from lorasweep.data.render import TokenRow
from lorasweep.data.tasks import Task, load_task

UNCUT = 2**31  # tokens; longer than any row


@dataclass(frozen=True, slots=True)
class TokenizedData:
    """The data of a trial, tokenised by its base's tokenizer."""

    spec: TrialSpec
    tokenizer: Any
    tokenizer_key: str
    task: Task

    @property
    def rendering(self) -> tuple[str, str | None]:
        """Return a key for what determines the length of a row."""
        return self.tokenizer_key, self.spec.data.template

    def scored(self, task: Task | None = None) -> tuple[TokenRow, ...]:
        """Return the rows on which trials are scored."""
        limit, rows = self.spec.eval.limit, task or self.task
        return (*rows.validation[:limit], *rows.test[:limit])

    def uncut(self) -> tuple[TokenRow, ...]:
        """Return these rows without truncation."""
        data = replace(self.spec.data, eval_max_length=UNCUT)
        return self.scored(load_task(data, self.tokenizer, self.tokenizer_key))


def incomparable(versions: Sequence[TokenizedData]) -> list[str]:
    """Return why trials with these versions of the data could not be compared; empty if they can."""
    return [*_other_tokens(versions), *_other_rows(versions)]


def _other_tokens(versions: Sequence[TokenizedData]) -> list[str]:
    names = {version.tokenizer_key: version.spec.model.id for version in versions}
    objective = versions[0].spec.eval.objective if versions else ""
    if len(names) < 2 or METRICS[objective].token_mean is None:
        return []
    return [
        f"eval.objective: {objective} counts nats per token, and {' and '.join(names.values())} split text into "
        f"different tokens; set eval.objective={LOSS_PER_BYTE}"
    ]


def _other_rows(versions: Sequence[TokenizedData]) -> list[str]:
    """Refuse truncated scored rows if templates or tokenizers differ: each would truncate other text."""
    if len({version.rendering for version in versions}) < 2:
        return []
    names = {tuple(row.row for row in version.scored()) for version in versions}
    num_cut = max(sum(row.is_truncated for row in version.scored()) for version in versions)
    if len(names) == 1 and not num_cut:
        return []
    return [_remedy([version.uncut() for version in versions], versions[0].spec)]


def _remedy(whole: Sequence[tuple[TokenRow, ...]], spec: TrialSpec) -> str:
    if len({tuple(row.row for row in rows) for rows in whole}) > 1:
        return (
            "data: some validation or test rows can be rendered with one template or base of this sweep but not with "
            "another, so trials would be scored on different examples; fix or remove the rows that lack a column"
        )
    longest = max(len(row.ids) for rows in whole for row in rows)
    return (
        f"data.max_length: at {spec.data.scored_length} tokens, the templates or bases of this sweep would truncate "
        f"validation or test rows differently; set data.eval_max_length={longest}, the length of the longest"
    )
