"""A plan describes the whole sweep before training."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from lorasweep.config.compose import compose
from lorasweep.config.folders import data_dir
from lorasweep.core.errors import ConfigError
from lorasweep.data.render import TokenRow
from lorasweep.data.tasks import load_task
from lorasweep.models.shape import model_path
from lorasweep.models.tokenizer import load_tokenizer
from lorasweep.planning.describe import headline, plan_text
from lorasweep.planning.make import make_plan
from lorasweep.planning.plan import Plan
from tests.architectures import save_architecture
from tests.tiny import save_base


def raw(*overrides: str) -> dict[str, Any]:
    composed, _ = compose(overrides, data_dir("conf"), data_dir("sweeps"))
    assert composed is not None
    return composed


def plan(*overrides: str) -> Plan:
    return make_plan(raw(*overrides))


def test_the_shipped_grid_has_eighteen_trials() -> None:
    found = plan("+sweep=rank_alpha")
    assert found.num_trials == len(found.trials) == 18


def test_points_that_mean_the_same_are_planned_once() -> None:
    """A constant schedule has no warm-up, so two of the four points are one trial."""
    grid = ("train.lr_scheduler_type=constant,linear", "train.warmup_steps=0.1,0.2", "study.sampler=grid")
    found = plan(*grid)
    assert (found.num_trials, found.num_same) == (3, 1)


def test_the_headline_counts_the_trials_that_will_run() -> None:
    line = headline(plan("lora.r=4,8", "study.sampler=random", "study.trials=20", "probes=none")).splitlines()[-1]
    assert ": 2 trials (" in line


def test_without_a_space_a_single_trial_is_planned() -> None:
    assert plan("probes=none").num_trials == 1


def test_slots_follow_the_memory_that_may_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORASWEEP_CACHE", str(tmp_path))  # other tests may have stored corrections for the demo
    roomy, tight = (plan("+sweep=rank_alpha", f"study.memory_gib={gib}") for gib in (4, 0.2))
    assert roomy.num_slots == 18
    assert 1 <= tight.num_slots < 18


def test_data_flaws_are_counted(in_tmp: Path) -> None:
    rows = [{"instruction": f"say {i % 5}", "output": "" if i == 7 else f"{i % 5}"} for i in range(10)]
    Path("train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    Path("test.jsonl").write_text(json.dumps({"instruction": "say 3", "output": "3"}))
    settings = ("data=alpaca", "data.train=train.jsonl", "data.validation=train.jsonl", "data.test=test.jsonl")
    (facts,) = plan(*settings, "probes=none").facts.values()
    assert (facts.num_empty, facts.num_duplicates, facts.num_leaked) == (1, 5, 11)


def test_data_and_module_mistakes_are_found_before_training(in_tmp: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        plan("data=alpaca", "data.train=missing.jsonl", "probes=none")
    with pytest.raises(ConfigError, match=r"no module 'q_porj'; did you mean 'q_proj'"):
        plan("lora.target_modules=[q_porj]")


def test_mistakes_of_device_modules_and_data_are_reported_together() -> None:
    with pytest.raises(ConfigError) as caught:
        plan("devices=7", "lora.target_modules=[q_porj]", "data=alpaca", "data.train=missing.jsonl", "probes=none")
    text = str(caught.value)
    assert "3 mistakes" in text and "no such GPU" in text and "q_porj" in text and "missing.jsonl" in text


def test_the_plan_shows_what_would_run() -> None:
    text = plan_text(plan("+sweep=rank_alpha"))
    for part in ("18 trials", "tokens per epoch", "truncated", "duplicated", "trainable", "predicted memory"):
        assert part in text


def test_the_cpu_is_shared_by_processes_where_there_is_enough_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lorasweep.planning.slots.num_cores", lambda: 4)
    shared, small, inline = (plan("+sweep=rank_alpha", x) for x in ("workers=null", "lora.r=4", "executor=inline"))
    assert [device.name for device in shared.devices] == ["cpu:0", "cpu:1", "cpu:2"]
    assert [*shared.slots.values()] == [6, 6, 6]
    assert [device.name for device in small.devices] == ["cpu"]
    assert [device.name for device in inline.devices] == ["cpu"]


def test_workers_share_the_memory_and_the_slots_that_were_asked_for() -> None:
    whole, halves = plan("+sweep=rank_alpha", "workers=1"), plan("+sweep=rank_alpha", "workers=2", "study.slots=8")
    assert halves.slots == {"cpu:0": 4, "cpu:1": 4}
    assert halves.devices[0].free_bytes == pytest.approx(whole.devices[0].free_bytes / 2, rel=0.1)


def test_threads_may_be_fixed_but_not_beyond_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lorasweep.planning.make.num_cores", lambda: 4)
    assert plan("threads=4", "probes=none").config.threads == 4
    with pytest.raises(ConfigError, match=r"threads: 5 exceed the 4 available cores.*set threads=4"):
        plan("threads=5", "probes=none")


def test_the_outline_names_gpus_that_fit_beside_the_rule_of_thumb() -> None:
    text = plan_text(plan("probes=none"))
    assert "1 trial: " in text and "at least 8 GB" in text and "rule of thumb: " in text and "plus 20 %" in text


def examples_of(found: Plan) -> list[tuple[str, ...]]:
    """Return the names of the rows that each point of a plan is scored on."""
    tasks = [load_task(s.data, load_tokenizer(s.model), "k") for s in (t.spec for t in found.trials)]
    return [tuple(row.row for row in (*task.validation, *task.test)) for task in tasks]


def test_a_swept_length_or_template_scores_every_trial_on_the_same_rows(in_tmp: Path) -> None:
    rows = [{"question": f"{'long ' * (i % 9)}question {i}", "answer": f"{i}"} for i in range(60)]
    Path("qa.jsonl").write_text("\n".join(map(json.dumps, rows)))
    line = ("data=prompt_completion", "data.train=qa.jsonl", "probes=none", "eval.objective=loss", "eval.metrics=[]")
    templates = "data.template=choice('{question}','Q: {question} A:')"
    found = plan(*line, "data.max_length=16,20,64", templates, "study.sampler=grid")
    assert len(found.trials) == 6
    assert len(set(examples_of(found))) == 1
    assert not any(row.is_truncated for row in _validation(found, 0))


def _validation(found: Plan, place: int) -> tuple[TokenRow, ...]:
    spec = found.trials[place].spec
    return load_task(spec.data, load_tokenizer(spec.model), "k").validation


def test_templates_that_would_cut_other_rows_are_refused_with_the_length_that_cuts_none(in_tmp: Path) -> None:
    rows = [{"question": f"{'long ' * (i % 9)}question {i}", "answer": f"{i}"} for i in range(60)]
    Path("qa.jsonl").write_text("\n".join(map(json.dumps, rows)))
    line = ["data=prompt_completion", "data.train=qa.jsonl", "probes=none", "eval.objective=loss", "eval.metrics=[]"]
    line += ["data.template=choice('{question}','Q: {question} A:')", "data.max_length=16", "study.sampler=grid"]
    with pytest.raises(
        ConfigError, match=r"at 16 tokens, the templates or bases of this sweep would truncate"
    ) as caught:
        plan(*line)
    remedy = re.search(r"data\.eval_max_length=\d+", str(caught.value))
    assert remedy and len(set(examples_of(plan(*line, remedy.group())))) == 1


def test_loss_is_refused_across_tokenizers_and_bits_per_byte_is_not(tmp_path: Path) -> None:
    other, copy = (str(tmp_path / name) for name in ("other", "copy"))
    save_base(Path(other), "llama")
    shutil.copytree(model_path("demo"), copy)
    across = (f"model.id=demo,{other}", "probes=none", "study.sampler=grid", "eval.metrics=[]", "data.max_length=200")
    with pytest.raises(ConfigError, match=r"loss counts nats per token, and demo and .*eval\.objective=bits_per_byte"):
        plan(*across, "eval.objective=loss")
    assert plan(*across, "eval.objective=bits_per_byte").num_trials == 2
    assert plan(f"model.id=demo,{copy}", "probes=none", "study.sampler=grid", "eval.objective=loss").num_trials == 2


@pytest.mark.parametrize("key", ["data.text_column", "data.label_column", "data.eval_max_length"])
def test_what_decides_the_examples_cannot_be_swept(key: str) -> None:
    with pytest.raises(ConfigError, match=f"sweep.space.{key}: cannot be swept"):
        plan(f"{key}=2,3")


GRID = ("probes=none", "study.sampler=grid", "train.max_steps=120")
SEARCH = ("probes=none", "train.learning_rate=tag(log,interval(1e-4,1e-2))")


@pytest.mark.parametrize(
    ("overrides", "start"),
    [
        ((*GRID, "train.warmup_steps=0.0,0.05,0.4"), 0.4),
        ((*GRID, "train.warmup_steps=0.4,0.1", "train.lr_scheduler_type=constant"), 0.0),
        ((*GRID, "train.warmup_steps=0.1", "train.lr_scheduler_type=constant,linear"), 0.1),
        ((*GRID, "train.warmup_steps=30", "lora.r=2,4"), 0.25),
        ((*SEARCH, "train.warmup_steps=interval(0.0,0.3)"), 0.3),
        ((*SEARCH, "train.warmup_steps=12,30", "train.max_steps=60,240"), 0.5),
    ],
)
def test_the_first_rung_of_all_trials_is_after_the_longest_warm_up_of_the_sweep(
    overrides: tuple[str, ...], start: float
) -> None:
    found = plan(*overrides)
    (share,) = {trial.spec.eval.rung_start for trial in found.trials}
    assert share == pytest.approx(start)


def test_the_plan_shows_the_rungs() -> None:
    text = plan_text(plan("+sweep=rank_alpha"))
    assert "pruner rules at 16 % and 32 % of the steps; the longest warm-up ends at 10 %" in text


def test_the_plan_names_the_probes_or_reports_that_there_are_none() -> None:
    assert "probe facts: accuracy on demo:probes/facts.jsonl" in plan_text(plan())
    text = plan_text(plan("probes=none"))
    assert "probes: none, so forgetting is not measured; set probes=general" in text


def test_a_probe_that_cannot_be_reached_is_named_with_the_way_out() -> None:
    with pytest.raises(ConfigError, match=r"eval\.probes\.far: .*; or leave probes out with probes=none"):
        plan("eval.probes={far:{path:missing.jsonl}}")


def test_the_plan_shows_whether_the_end_token_is_scored() -> None:
    assert "options are scored with the end token that follows them; eval.end_token=false" in plan_text(
        plan("probes=none")
    )
    assert "without the end token" in plan_text(plan("probes=none", "eval.end_token=false"))
    loss = plan("probes=none", "eval.objective=loss", "eval.metrics=[]")
    assert "end token" not in plan_text(loss)


def test_a_plan_warns_of_few_validation_rows_and_of_test_prompts_that_are_trained_on(in_tmp: Path) -> None:
    rows = [json.dumps({"instruction": f"say {i}", "output": f"{i}"}) for i in range(80)]
    Path("train.jsonl").write_text("\n".join(rows))
    Path("test.jsonl").write_text("\n".join(rows[:20]))
    found = plan("data=alpaca", "data.train=train.jsonl", "data.test=test.jsonl", "probes=none")
    few, leaked = found.warnings
    assert few.startswith("trials are scored on 40 validation rows; below 50")
    assert re.match(r"\d+ of 20 test prompts also occur in the training data", leaked)
    assert headline(found).count("WARNING: ") == 2


def test_a_plan_does_not_warn_of_the_demo() -> None:
    assert plan("probes=none").warnings == plan("data=demo_answers", "probes=none").warnings == ()


def test_the_plan_names_modules_without_adapter_and_slow_passes(tmp_path: Path) -> None:
    experts = plan_text(
        plan(f"model.id={save_architecture('qwen2_moe', tmp_path / 'moe')}", "lora.target_modules=all-linear")
    )
    assert "target modules: k_proj, o_proj, q_proj, shared_expert_gate, v_proj" in experts
    assert "experts in fused weights stay frozen: model.layers.*.mlp.experts.gate_up_proj" in experts
    assert (
        "model.layers.*.mlp.shared_expert.down_proj; stock PEFT treats this name as the base's fused experts" in experts
    )
    assert "packed passes give the same numbers as single rows" in experts
    hybrid = plan_text(plan(f"model.id={save_architecture('qwen3_5_text', tmp_path / 'hybrid')}"))
    assert "training rows are padded: faster passes are not exact on this architecture" in hybrid


def test_a_preset_whose_modules_carry_no_adapter_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"no module for up.*up_proj: stock PEFT treats this name as the base's fused experts"
    ):
        plan(f"model.id={save_architecture('qwen2_moe', tmp_path)}", "lora.target_modules=mlp")
