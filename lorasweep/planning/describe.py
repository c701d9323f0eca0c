"""Describe a plan as text."""

from collections.abc import Iterator

from evaluation.metrics import METRICS
from lorasweep.adapters.methods.table import num_trainable
from lorasweep.config.grammar import Choice, Domain
from lorasweep.core.rungs import rung_shares
from lorasweep.core.sizes import GIB
from lorasweep.core.spec import ModelSpec, TrialSpec
from lorasweep.data.cache import remembered
from lorasweep.memory.gpus import RULE, fitting, rule_of_thumb
from lorasweep.models.info import stored_by_content
from lorasweep.planning.data_stats import DataFacts
from lorasweep.planning.plan import Plan

SHOWN = 24  # configurations listed one by one


def headline(plan: Plan) -> str:
    """Return a line about the sweep, and a line for each warning about the data."""
    spec = plan.trials[0].spec
    count = "1 trial" if plan.max_trials == 1 else f"{plan.max_trials} trials"
    together = "" if plan.max_trials == 1 else f", {_together(plan)} trained together"
    where = ", ".join(dict.fromkeys(device.description for device in plan.devices))
    question = f"{plan.config.sweep.question}\n" if plan.config.sweep.question else ""
    sampler = "grid" if plan.is_grid else plan.config.study.sampler
    search = f"{plan.config.sweep.name}: {count} ({sampler}) on {spec.model.id}"
    return "\n".join([f"{question}{search}{together}; {where}", *(f"WARNING: {text}" for text in plan.warnings)])


def _together(plan: Plan) -> str:
    return " + ".join(str(plan.slots[device.name]) for device in plan.devices)


def plan_text(plan: Plan) -> str:
    """Return the description of the whole plan."""
    return "\n".join(
        [
            headline(plan),
            "",
            *_space(plan),
            "",
            *_data(plan),
            *_probes(plan),
            "",
            *_bases(plan),
            "",
            *_configurations(plan),
            "",
            *_memory(plan),
        ]
    )


def _space(plan: Plan) -> Iterator[str]:
    yield "search space" if plan.domains else "no search space: a single trial"
    for key, domain in plan.domains.items():
        yield f"  {key}: {domain_text(domain)}"
    if plan.num_same:
        yield f"  {plan.num_same} points are equal to others and are left out"
    yield f"  objective: {plan.config.eval.objective} on validation; {_pruning(plan)}"
    yield from _end_token(plan)


def domain_text(domain: Domain) -> str:
    """Return the values of a domain as text: `4, 8, 16` or `0.0001 to 0.01 (log)`."""
    if isinstance(domain, Choice):
        return ", ".join(map(str, domain.values))
    return f"{domain.low:g} to {domain.high:g}{' (log)' if domain.is_log else ''}"


def _end_token(plan: Plan) -> Iterator[str]:
    """Yield how answer options are scored, if a metric scores options."""
    evaluation = plan.config.eval
    if not any(METRICS[name].from_choices for name in evaluation.all_metrics):
        return
    if evaluation.end_token:
        yield "  options are scored with the end token that follows them; eval.end_token=false scores only their text"
    else:
        yield "  options are scored without the end token that follows them"


def _pruning(plan: Plan) -> str:
    """Return the pruner, and the shares of the steps at which it may stop trials."""
    pruner, spec = plan.config.study.pruner, plan.trials[0].spec.eval
    shares = [share for share in rung_shares(spec.rungs, spec.rung_factor, spec.rung_start) if share < 1]
    if pruner == "none":
        return "no pruner"
    if not shares:
        return f"pruner {pruner}, which stops no trial: warm-up lasts as long as training"
    places = " and ".join(f"{share:.0%}" for share in shares).replace("%", " %")
    warm = f"; the longest warm-up ends at {spec.rung_start:.0%}".replace("%", " %") if spec.rung_start else ""
    return f"pruner {pruner} at {places} of the steps{warm}"


def _data(plan: Plan) -> Iterator[str]:
    for facts in plan.facts.values():
        yield f"data: {facts.num_train} train, {facts.num_validation} validation, {facts.num_test} test examples"
        share = facts.num_truncated / max(1, facts.num_train + facts.num_validation + facts.num_test)
        yield (
            f"  {facts.tokens_per_epoch} tokens per epoch, longest row {facts.lengths.longest}, "
            f"{facts.lengths.labels:.1f} label tokens per row, {share:.1%} of rows truncated"
        )
        yield f"  {_flaws(facts)}"
        yield from (f"  note: {note}" for note in facts.notes)


def _probes(plan: Plan) -> Iterator[str]:
    probes = plan.config.eval.probes
    if not probes:
        yield "probes: none, so forgetting is not measured; set probes=general, or define probes as"
        yield "  eval.probes={NAME:{path:FILE.jsonl}}"
    for probe in probes:
        yield f"probe {probe.name}: {probe.metric} on {probe.path}{'' if probe.end_token else ', no end token scored'}"


def _flaws(facts: DataFacts) -> str:
    return (
        f"{facts.num_empty} empty answers, {facts.num_duplicates} duplicated training prompts, "
        f"{facts.num_leaked} validation or test prompts that also occur in the training data"
    )


def _bases(plan: Plan) -> Iterator[str]:
    """Yield, for each base, its target modules, its modules without adapters, and its slow passes."""
    specs = [trial.spec for trial in plan.trials]
    for model in dict.fromkeys(spec.model for spec in specs):
        info = plan.info(model)
        yield f"base: {info.name} ({info.model_type}), {info.num_parameters:,} parameters"
        targets = dict.fromkeys(spec.lora.target_modules for spec in specs if spec.model == model)
        yield from (f"  target modules: {', '.join(names)}" for names in targets)
        if info.fused:
            yield f"  experts in fused weights stay frozen: {', '.join(info.fused)}"
        for reason in dict.fromkeys(info.unusable.values()):
            paths = ", ".join(path for path, why in info.unusable.items() if why == reason)
            yield f"  without adapters: {paths}; {reason}"
        yield f"  {_passes(model)}"


def _passes(model: ModelSpec) -> str:
    """Return whether passes can be packed on a base. The answer is stored: the test imports torch."""
    stored = stored_by_content(model.id, "passes", model.trust_remote_code)
    return remembered(stored, lambda: _tested(model), _known, lambda text: {"text": text})


UNKNOWN = "whether passes can be packed is tested when the base is loaded"


def _known(raw: dict[str, str]) -> str:
    if raw["text"] == UNKNOWN:
        raise ValueError("the test may succeed now")
    return raw["text"]


def _tested(model: ModelSpec) -> str:
    from lorasweep.adapters.load import tiny_base_shortcuts
    from lorasweep.models.describe import read_config

    shortcuts = tiny_base_shortcuts(read_config(model.id, model.revision, model.trust_remote_code))
    if shortcuts is None:
        return UNKNOWN
    if not shortcuts.slow_ways:
        return "packed passes give the same numbers as single rows, tested on a tiny base of this architecture"
    return f"{'; '.join(shortcuts.slow_ways)}: faster passes are not exact on this architecture"


def _configurations(plan: Plan) -> Iterator[str]:
    yield "configurations" if plan.is_grid else "corners of the space"
    for trial in plan.trials[:SHOWN]:
        spec = trial.spec
        info = plan.info(spec.model)
        count = num_trainable(spec.lora, info.adapted(spec.lora.target_modules))
        share = 100 * count / (info.num_parameters + count)
        yield (
            f"  {trial.text or 'defaults'}: {count:,} trainable ({share:.3f} %), "
            f"{_steps(plan, spec)} steps, {plan.footprint([spec]).total / GIB:.2f} GiB alone"
        )
    if len(plan.trials) > SHOWN:
        yield f"  and {len(plan.trials) - SHOWN} more"


def _steps(plan: Plan, spec: TrialSpec) -> int:
    return spec.train.num_steps(plan.facts[spec.data_key].num_train)


def _memory(plan: Plan) -> Iterator[str]:
    spec = max((trial.spec for trial in plan.trials), key=lambda s: plan.footprint([s]).total)
    slots = max(plan.slots.values())
    need = plan.footprint([spec] * slots)
    parts = ", ".join(f"{getattr(need, name) / GIB:.2f} {name}" for name in PARTS)
    yield f"predicted memory with {slots} slots: {need.total / GIB:.2f} GiB"
    yield f"  {parts}; training and evaluation peak at different times"
    if (factor := plan.factor(spec.model, plan.kind)) != 1:
        yield f"  corrected by the factor {factor:.2f} (all but the weights), from earlier trials on this base"
    for device in plan.devices:
        yield f"  {device.description}: {device.free_bytes / GIB:.1f} GiB free, {plan.slots[device.name]} slots"
    yield from _gpus(plan, spec)


PARTS = ("weights", "adapters", "activations", "evaluation", "overhead")


def _gpus(plan: Plan, spec: TrialSpec) -> Iterator[str]:
    """Yield the common GPU sizes that are large enough, and a rule of thumb for comparison."""
    yield "common GPU sizes that fit by prediction (calibrated on CPUs only)"
    most = max(plan.slots.values())
    for count in sorted({1, most}):
        need = plan.footprint([spec] * count, "cuda").total
        sizes = list(fitting(need).items())
        where = f"at least {sizes[0][0]} GB ({sizes[0][1]})" if sizes else "none of them"
        yield f"  {'1 trial' if count == 1 else f'{count} trials'}: {need / GIB:.2f} GiB, {where}"
    guess = rule_of_thumb(plan.info(spec.model), spec.model)
    yield f"  rule of thumb: {guess / GIB:.2f} GiB ({RULE}; it ignores row lengths and the number of trials)"
