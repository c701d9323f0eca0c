"""The settings that become columns, and their labels."""

from collections.abc import Callable

from lorasweep.core.result import TrialResult
from lorasweep.report.settings import fixed, labels, overrides, varying

Make = Callable[..., TrialResult]


def test_only_settings_that_vary_become_columns(trial: Make) -> None:
    results = [trial(n, params={"lora.r": r, "train.learning_rate": 2e-4}) for n, r in enumerate((4, 8))]
    assert varying(results) == ("lora.r",)
    assert fixed(results)["train.learning_rate"] == "0.0002"


def test_settings_that_specs_share_are_fixed_even_if_they_were_not_swept(trial: Make) -> None:
    results = [trial(0, params={"lora.r": 4}), trial(1, params={"lora.r": 8})]
    assert fixed(results)["model.id"] == "demo"
    assert "lora.r" not in fixed(results)


def test_a_swept_expression_is_shown_as_it_was_written(trial: Make) -> None:
    results = [trial(n, params={"lora.r": r, "lora.lora_alpha": "2r"}) for n, r in enumerate((4, 8))]
    assert fixed(results)["lora.lora_alpha"] == "2r"


def test_a_setting_without_effect_is_left_out_for_that_trial(trial: Make) -> None:
    params = {"train.lr_scheduler_type": "constant", "train.warmup_steps": 0.1}
    assert trial(0, params=params).trial.effective == {"train.lr_scheduler_type": "constant"}


def test_a_setting_that_varies_only_where_it_has_no_effect_is_no_column(trial: Make) -> None:
    results = [trial(n, params={"train.lr_scheduler_type": "constant", "train.warmup_steps": w / 10}) for n, w in
               enumerate((1, 2))]  # fmt: skip
    assert varying(results) == ()
    assert "train.warmup_steps" not in fixed(results)


def test_names_are_short_unless_two_settings_share_them() -> None:
    assert labels(["lora.r", "model.id", "data.id"]) == {"lora.r": "r", "model.id": "model.id", "data.id": "data.id"}


def test_a_failed_trial_without_settings_makes_no_columns(trial: Make) -> None:
    assert varying([trial(0, params={"lora.r": 8}), trial(1, params={})]) == ()


def test_overrides_are_exact_and_quoted_for_the_shell(trial: Make) -> None:
    params = {"train.learning_rate": 0.00012345678, "lora.use_rslora": True, "model.id": "my model"}
    assert overrides(trial(0, params=params)) == (
        "train.learning_rate=0.00012345678 lora.use_rslora=true 'model.id=\"my model\"'"
    )


def test_overrides_leave_module_lists_to_hydra(trial: Make) -> None:
    result = trial(0, params={"lora.r": 8})
    result.params["lora.target_modules"] = "[q_proj,v_proj]"
    assert overrides(result) == "lora.r=8 'lora.target_modules=[q_proj,v_proj]'"
