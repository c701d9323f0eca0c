"""Read and check all data of a sweep before training."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from evaluation.metrics import METRICS
from lorasweep.core.errors import ConfigError, HubUnreachable, LoraSweepError
from lorasweep.core.hub import unreachable_note
from lorasweep.core.spec import ProbeSpec, TrialSpec, digest
from lorasweep.data.render import TokenRow
from lorasweep.data.splits import MIN_VALIDATION, read_source, read_splits
from lorasweep.data.tasks import Task, load_probe, load_task
from lorasweep.memory import Lengths, lengths_of
from lorasweep.models.tokenizer import LazyTokenizer
from lorasweep.planning.comparable import TokenizedData, incomparable


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFacts:
    """Sizes of the data, and counts of rows that distort a measurement."""

    num_train: int
    num_validation: int
    num_test: int
    tokens_per_epoch: int
    lengths: Lengths
    num_truncated: int
    num_empty: int
    num_duplicates: int
    num_leaked_validation: int
    num_leaked_test: int
    notes: tuple[str, ...]
    content: str  # digest of the rows, including those of probes
    num_scored: int  # validation rows on which trials are scored

    @property
    def num_leaked(self) -> int:
        """Return the number of validation and test prompts that also occur in the training data."""
        return self.num_leaked_validation + self.num_leaked_test

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return a message for each reason why scores on these rows are unreliable."""
        found = []
        if self.num_scored < MIN_VALIDATION:
            found.append(
                f"trials are scored on {self.num_scored} validation rows; below {MIN_VALIDATION}, intervals are so "
                "wide that few trials can be distinguished: add rows to data.validation, or raise eval.limit"
            )
        splits = (
            ("validation", self.num_leaked_validation, self.num_validation),
            ("test", self.num_leaked_test, self.num_test),
        )
        for name, leaked, count in splits:
            if leaked:
                found.append(
                    f"{leaked} of {count} {name} prompts also occur in the training data, so {name} scores say less "
                    f"about new prompts: remove them from data.train or from data.{name}"
                )
        return tuple(found)


def all_facts(specs: Sequence[TrialSpec]) -> dict[str, DataFacts]:
    """Return the facts of each trial's data, or raise `ConfigError` with all problems of all data."""
    facts: dict[str, DataFacts] = {}
    problems: list[str] = []
    versions: list[TokenizedData] = []
    for spec in {s.data_key: s for s in specs}.values():
        try:
            tokenizer = LazyTokenizer(spec.model)
            key = tokenizer.key
        except LoraSweepError as error:  # check the data files too
            problems += [str(error).splitlines()[0], *_unreadable(spec)]
            continue
        try:
            task = load_task(spec.data, tokenizer, key)
            problems += _unusable(spec, task)
            versions.append(TokenizedData(spec, tokenizer, key, task))
            facts[spec.data_key] = data_facts(task, spec.eval.limit)
        except LoraSweepError as error:
            problems += problems_of(error)
        unreachable: list[str] = []
        for probe in spec.eval.probes:
            try:
                rows = load_probe(probe, tokenizer, key)
                if (known := facts.get(spec.data_key)) is None:
                    continue
                longest = known.lengths.with_scored(rows)
                facts[spec.data_key] = replace(
                    known, content=digest([known.content, content_of(rows)]), lengths=longest
                )
            except HubUnreachable:
                unreachable.append(probe.name)
            except LoraSweepError as error:
                problems.append(_probe_problem(probe, error))
        problems += _hub_problems(unreachable)
    problems += incomparable(versions)
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return facts


def problems_of(error: LoraSweepError) -> Sequence[str]:
    """Return all messages of an error."""
    return error.problems if isinstance(error, ConfigError) else (str(error),)


def _unreadable(spec: TrialSpec) -> list[str]:
    """Return the problems of a trial's data files if its tokenizer cannot be loaded."""
    found: list[str] = []
    try:
        read_splits(spec.data)
    except LoraSweepError as error:
        found += problems_of(error)
    unreachable: list[str] = []
    for probe in spec.eval.probes:
        try:
            read_source(probe.path, probe)
        except HubUnreachable:
            unreachable.append(probe.name)
        except LoraSweepError as error:
            found.append(_probe_problem(probe, error))
    return [*found, *_hub_problems(unreachable)]


def _hub_problems(probes: Sequence[str]) -> list[str]:
    """Return one message for all probes that could not be read because the hub does not answer."""
    if not probes:
        return []  # do not ask whether the hub answers
    names = ", ".join(probes)
    return [f"eval.probes: {names} cannot be read{unreachable_note()}; or leave probes out with probes=none"]


def _probe_problem(probe: ProbeSpec, error: LoraSweepError) -> str:
    return f"eval.probes.{probe.name}: {error}; or leave probes out with probes=none"


def _unusable(spec: TrialSpec, task: Task) -> list[str]:
    """Return the metrics that these rows cannot be scored by."""
    scored = (*task.validation, *task.test)
    problems = []
    by_options = [name for name in spec.eval.all_metrics if METRICS[name].needs_options]
    if by_options and not all(row.options for row in scored):
        problems.append(
            f"eval.objective: {by_options[0]} needs 'options' in every validation and test row; add them, or use "
            "exact_match, rougeL or loss"
        )
    is_written = any(METRICS[name].from_texts for name in spec.eval.all_metrics)
    if is_written and any(row.prompt_length == 0 for row in scored):
        problems.append("eval: an answer can only be generated after a prompt, and some rows have none; use loss")
    return problems


def content_of(rows: Sequence[TokenRow]) -> str:
    """Return a digest of the rows' content."""
    return digest([(row.ids, row.is_label, row.options, row.target) for row in rows])


def data_facts(task: Task, limit: int | None = None) -> DataFacts:
    """Return the facts of a task's data; trials are scored on at most `limit` rows."""
    everything = (*task.train, *task.validation, *task.test)
    train_prompts = Counter(_identity(row) for row in task.train)
    return DataFacts(
        num_train=len(task.train),
        num_validation=len(task.validation),
        num_test=len(task.test),
        tokens_per_epoch=sum(len(row.ids) for row in task.train),
        lengths=lengths_of(task.train, (*task.validation, *task.test)),
        num_truncated=sum(row.is_truncated for row in everything),
        num_empty=sum(not row.reference.strip() for row in task.train),
        num_duplicates=sum(count - 1 for count in train_prompts.values()),
        num_leaked_validation=sum(_identity(row) in train_prompts for row in task.validation),
        num_leaked_test=sum(_identity(row) in train_prompts for row in task.test),
        notes=task.notes,
        content=content_of(everything),
        num_scored=len(task.validation[:limit]),
    )


def _identity(row: TokenRow) -> tuple[int, ...]:
    """Return the tokens of a row's prompt, or of the row if it has none: equal tokens mean equal questions."""
    start = row.ids[: row.prompt_length]
    return start if len(start) > 1 else row.ids
