"""What is in the data of a sweep: every file read before anything is trained, its flaws counted."""

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
from lorasweep.models.tokenizer import load_tokenizer, tokenizer_key
from lorasweep.planning.comparable import TokenizedData, incomparable


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFacts:
    """What is in the data: tokens, cuts, and rows that spoil a measurement."""

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
    content: str  # names the rows themselves, probes included
    num_scored: int  # validation rows that trials are scored on

    @property
    def num_leaked(self) -> int:
        """Return how many validation and test prompts stand in the training data."""
        return self.num_leaked_validation + self.num_leaked_test

    @property
    def warnings(self) -> tuple[str, ...]:
        """Say what makes the scores of these rows unreliable."""
        found = []
        if self.num_scored < MIN_VALIDATION:
            found.append(
                f"trials are scored on {self.num_scored} validation rows; below {MIN_VALIDATION}, intervals are so "
                "wide that few trials can be told apart: name more rows as data.validation, or raise eval.limit"
            )
        splits = (
            ("validation", self.num_leaked_validation, self.num_validation),
            ("test", self.num_leaked_test, self.num_test),
        )
        for name, leaked, count in splits:
            if leaked:
                found.append(
                    f"{leaked} of {count} {name} prompts stand in the training data, so {name} scores say less about "
                    f"new prompts: remove them from data.train or from data.{name}"
                )
        return tuple(found)


def all_facts(specs: Sequence[TrialSpec]) -> dict[str, DataFacts]:
    """Return the facts of each trial's data, or raise `ConfigError` with all that is wrong with any of it."""
    facts: dict[str, DataFacts] = {}
    problems: list[str] = []
    versions: list[TokenizedData] = []
    for spec in {s.data_key: s for s in specs}.values():
        try:
            tokenizer = load_tokenizer(spec.model)
            key = tokenizer_key(tokenizer)
        except LoraSweepError as error:  # its files may be wrong too
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
    """Return every mistake of an error that may hold several."""
    return error.problems if isinstance(error, ConfigError) else (str(error),)


def _unreadable(spec: TrialSpec) -> list[str]:
    """Return what is wrong with the files of a trial whose base cannot be read."""
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
    """Say once which probes the hub would have to be asked for."""
    names = ", ".join(probes)
    text = f"eval.probes: {names} cannot be read{unreachable_note()}; or leave probes out with probes=none"
    return [text] if names else []


def _probe_problem(probe: ProbeSpec, error: LoraSweepError) -> str:
    return f"eval.probes.{probe.name}: {error}; or leave probes out with probes=none"


def _unusable(spec: TrialSpec, task: Task) -> list[str]:
    """Name metrics that these rows cannot be scored by."""
    judged = (*task.validation, *task.test)
    problems = []
    by_options = [name for name in spec.eval.all_metrics if METRICS[name].needs_options]
    if by_options and not all(row.options for row in judged):
        problems.append(
            f"eval.objective: {by_options[0]} needs 'options' in every validation and test row; add them, or use "
            "exact_match, rougeL or loss"
        )
    is_written = any(METRICS[name].from_texts for name in spec.eval.all_metrics)
    if is_written and any(row.prompt_length == 0 for row in judged):
        problems.append("eval: a text can only be written after a prompt, and some rows have none; use loss")
    return problems


def content_of(rows: Sequence[TokenRow]) -> str:
    """Name rows by what is in them."""
    return digest([(row.ids, row.is_label, row.options, row.target) for row in rows])


def data_facts(task: Task, limit: int | None = None) -> DataFacts:
    """Count what a reader of a result should know about its data; trials are scored on `limit` rows at most."""
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
    """Two rows are the same question when their prompts are; a text without prompt is known by itself."""
    start = row.ids[: row.prompt_length]
    return start if len(start) > 1 else row.ids
