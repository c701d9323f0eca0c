"""A fingerprint covers exactly the settings that affect the numbers."""

from collections.abc import Iterator
from dataclasses import fields, replace

import pytest

from lorasweep.adapters.load import IN_CONFIG
from lorasweep.core.spec import (
    NOT_IN_DATA,
    NOT_IN_FINGERPRINT,
    ModelSpec,
    ProbeSpec,
    TrainSpec,
    TrialSpec,
    covered,
    digest,
)  # fmt: skip
from lorasweep.memory import corrections
from lorasweep.worker import baseline
from tests.changes import changed
from tests.settings import SPEC, adapted, trained

WITH_PROBE = replace(SPEC, eval=replace(SPEC.eval, probes=(ProbeSpec(name="facts", path="facts.jsonl"),)))
SECTIONS = tuple(f.name for f in fields(TrialSpec))


def every_change() -> Iterator[tuple[str, TrialSpec]]:
    """Yield the trial with each setting changed in turn, including those of probes, by the setting's name."""
    for section in SECTIONS:
        for name, value in changed(getattr(WITH_PROBE, section)):
            yield f"{section}.{name}", replace(WITH_PROBE, **{section: value})
    for name, probe in changed(WITH_PROBE.eval.probes[0]):
        yield f"eval.probes.{name}", replace(WITH_PROBE, eval=replace(WITH_PROBE.eval, probes=(probe,)))


CHANGES = dict(every_change())


def test_a_digest_does_not_know_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 2, "b": 1})


def test_warm_up_means_nothing_under_a_constant_schedule() -> None:
    one = trained(lr_scheduler_type="constant", warmup_steps=0.0)
    assert one.fingerprint == trained(lr_scheduler_type="constant", warmup_steps=0.1).fingerprint


def test_warm_up_counts_under_any_other_schedule() -> None:
    assert trained(warmup_steps=0.0).fingerprint != trained(warmup_steps=0.1).fingerprint


def test_epochs_mean_nothing_under_max_steps() -> None:
    assert trained(max_steps=9, num_train_epochs=1).fingerprint == trained(max_steps=9, num_train_epochs=2).fingerprint


def test_epochs_count_without_max_steps() -> None:
    assert trained(num_train_epochs=1).fingerprint != trained(num_train_epochs=2).fingerprint


def test_a_rank_stabilised_adapter_of_the_same_scale_is_the_same_trial() -> None:
    plain, stable = adapted(r=16, lora_alpha=32), adapted(r=16, lora_alpha=8, use_rslora=True)
    assert plain.lora.scale == stable.lora.scale == 2
    assert plain.fingerprint == stable.fingerprint


def test_another_scale_is_another_trial() -> None:
    assert adapted(lora_alpha=16).fingerprint != adapted(lora_alpha=32).fingerprint


def test_the_same_scale_at_another_rank_is_another_trial() -> None:
    assert adapted(r=4, lora_alpha=8).fingerprint != adapted(r=8, lora_alpha=16).fingerprint


def test_the_order_of_target_modules_names_no_other_trial() -> None:
    assert adapted(target_modules=("v_proj", "q_proj")).fingerprint == SPEC.fingerprint


def test_checkpointed_activations_change_no_number_and_no_name() -> None:
    assert trained(activation_checkpointing=True).fingerprint == SPEC.fingerprint


@pytest.mark.parametrize(
    "other",
    [
        trained(seed=1),
        trained(learning_rate=2e-3),
        trained(gradient_accumulation_steps=2),
        adapted(lora_dropout=0.1),
        replace(SPEC, model=replace(SPEC.model, precision="nf4")),
        replace(SPEC, data=replace(SPEC.data, max_length=9)),
    ],
)
def test_whatever_changes_the_outcome_changes_the_name(other: TrialSpec) -> None:
    assert other.fingerprint != SPEC.fingerprint


def test_trials_share_a_base_when_only_their_adapters_differ() -> None:
    assert adapted(r=2).base_key == SPEC.base_key
    assert replace(SPEC, model=replace(SPEC.model, precision="int8")).base_key != SPEC.base_key


def test_precision_does_not_tokenise_the_data_again() -> None:
    assert replace(SPEC, model=replace(SPEC.model, precision="int8")).data_key == SPEC.data_key


@pytest.mark.parametrize(("epochs", "accumulation", "steps"), [(1, 1, 25), (3, 1, 75), (0.5, 1, 13), (1, 4, 7)])
def test_steps_are_counted_as_transformers_counts_them(epochs: float, accumulation: int, steps: int) -> None:
    assert trained(num_train_epochs=epochs, gradient_accumulation_steps=accumulation).train.num_steps(98) == steps


def test_max_steps_overrides_epochs() -> None:
    assert trained(max_steps=5, num_train_epochs=100).train.num_steps(98) == 5


@pytest.mark.parametrize(("warmup", "steps"), [(0.0, 0), (0.1, 10), (0.001, 1), (1, 1), (7, 7)])
def test_warm_up_below_one_is_a_share_of_all_steps(warmup: float, steps: int) -> None:
    train = TrainSpec(learning_rate=1, per_device_train_batch_size=1, warmup_steps=warmup)
    assert train.num_warmup_steps(100) == steps


def test_the_objective_leads_the_metrics_and_loss_is_always_there() -> None:
    assert replace(SPEC.eval, objective="rougeL", metrics=("rouge1", "rougeL")).all_metrics == (
        "rougeL",
        "rouge1",
        "loss",
    )


@pytest.mark.parametrize("name", CHANGES)
def test_every_setting_makes_another_trial_or_is_listed_with_a_reason(name: str) -> None:
    assert (CHANGES[name].fingerprint == WITH_PROBE.fingerprint) == (name in NOT_IN_FINGERPRINT)


@pytest.mark.parametrize("name", [n for n in CHANGES if n.startswith(("model.", "data."))])
def test_every_setting_makes_other_data_or_is_listed_with_a_reason(name: str) -> None:
    is_same = CHANGES[name].data_key == WITH_PROBE.data_key
    assert is_same == bool(name.startswith("model.") and NOT_IN_DATA.get(name.removeprefix("model.")))


@pytest.mark.parametrize("name", [n for n in CHANGES if n.startswith("model.")])
def test_every_setting_of_a_base_makes_another_base(name: str) -> None:
    assert CHANGES[name].base_key != WITH_PROBE.base_key


def test_excluded_names_are_fields() -> None:
    models = {f.name for f in fields(ModelSpec)}
    assert NOT_IN_FINGERPRINT.keys() <= CHANGES.keys()
    assert {*NOT_IN_DATA, *corrections.NOT_IN_KEY, *IN_CONFIG} <= models
    assert baseline.NOT_IN_KEY.keys() <= {f.name for f in fields(SPEC.eval)}


def test_corrections_and_shortcuts_belong_to_type_and_precision() -> None:
    assert covered(SPEC.model, corrections.NOT_IN_KEY) == covered(SPEC.model, IN_CONFIG)
    assert list(covered(SPEC.model, IN_CONFIG)) == ["dtype", "precision"]


def test_fingerprints_are_those_of_results_on_disk() -> None:
    assert SPEC.fingerprint == "04fc921d9dab037e"
    assert (SPEC.base_key, SPEC.data_key) == ("1074d4d8d369e62a", "ece5dcb5a402abca")
