"""The benchmark's claim is worth as much as its fairness."""

from pathlib import Path

from benchmarks.honesty import check_honesty
from benchmarks.sweep import schedule
from benchmarks.sweep_job import AXES, SIZES, axes_of, make_job
from benchmarks.sweep_table import compare_winners, table

SMALL = ["data.limit=64", "eval.limit=12", "eval.rungs=1"]
ONE = {"lora.r": "4", "lora.target_modules": "qv", "lora.lora_alpha": "8", "train.learning_rate": "1e-3"}


def test_both_sides_do_the_same_work(tmp_path: Path) -> None:
    found = check_honesty(tmp_path, SMALL, steps=4, axes=ONE)
    assert found.trials == 1 and found.loss <= 1e-5 and found.least_gradient > 0


def test_a_sweep_has_as_many_trials_as_asked_for() -> None:
    sizes = [len(make_job(axes_of(size), 0, []).specs) for size in SIZES]
    assert sizes == list(SIZES)


def test_the_same_work_with_another_seed_has_the_same_key() -> None:
    first, second = (make_job(axes_of(2), seed, []) for seed in (0, 1))
    assert first.key == second.key and first.specs != second.specs


def test_what_the_user_gives_replaces_an_axis() -> None:
    axes = axes_of(32, ["lora.r=2"])
    assert axes.keys() == AXES.keys() - {"lora.r"}


def test_seeds_are_interleaved_and_a_slow_side_gets_fewer() -> None:
    assert schedule(["L", "a"], 2, ["a=1"]) == [(0, "L"), (0, "a"), (1, "L")]


def run(side: str, wall_s: float, accuracies: list[float]) -> dict[str, object]:
    trials = [
        {
            "number": i,
            "fingerprint": str(i),
            "state": "complete",
            "step": 10,
            "params": {"lora.r": i},
            "scores": [float(j < a * 10) for j in range(10)],
            "metrics": {"accuracy": a, "loss": 1 - a / 100},
        }
        for i, a in enumerate(accuracies)
    ]
    return {"side": side, "seed": 0, "wall_s": wall_s, "trials": trials}


def test_the_fastest_form_of_a_baseline_is_compared() -> None:
    text = table([run("L", 2, [0.5]), run("a", 20, [0.5]), run("a2", 12, [0.5])])
    assert "(a)/(L) = 6.00, 1 seed, baseline run as a2" in text


def test_another_winner_is_told_with_its_loss_and_whether_it_is_tied() -> None:
    text = compare_winners(run("L", 2, [0.6, 0.5]), run("P", 1, [0.4, 0.5]))
    assert "winner trial 1 (r=1) instead of trial 0 (r=0); loss 0.9950 instead of 0.9940 (within 1 %); tied" in text
