"""Trials on the demo base that take a second: few steps, few examples."""

from lorasweep.adapters.methods.lora import LoraSpec
from lorasweep.core.messages import Start, WorkerSettings
from lorasweep.core.spec import DataSpec, EvalSpec, ModelSpec, Precision, ProbeSpec, TrainSpec, TrialSpec
from lorasweep.core.trial import Trial
from lorasweep.models.info import resolve_targets
from lorasweep.worker.worker import Worker
from tests.settings import lora_of

INTENTS = DataSpec(
    train="demo:intents/train.csv[:40]",
    validation="demo:intents/validation.csv[:12]",
    test="demo:intents/test.csv[:12]",
    format="classification",
    max_length=64,
)
ANSWERS = DataSpec(
    train="demo:answers/train.jsonl[:40]",
    validation="demo:answers/validation.jsonl[:6]",
    format="alpaca",
    template="plain",
    max_length=128,
)
PROBE = ProbeSpec(name="facts", path="demo:probes/facts.jsonl", limit=10)


def trial(
    *,
    r: int = 4,
    lr: float = 2e-3,
    steps: int = 4,
    seed: int = 0,
    precision: Precision = "none",
    data: DataSpec = INTENTS,
    objective: str = "accuracy",
    rungs: int = 2,
    checkpointing: bool = False,
) -> TrialSpec:
    """Return a small trial."""
    model = ModelSpec(id="demo", precision=precision)
    return TrialSpec(
        model=model,
        lora=LoraSpec(r=r, lora_alpha=2 * r, target_modules=resolve_targets(model, "qv")),
        train=TrainSpec(
            learning_rate=lr,
            per_device_train_batch_size=4,
            max_steps=steps,
            seed=seed,
            activation_checkpointing=checkpointing,
        ),
        data=data,
        eval=EvalSpec(objective=objective, max_new_tokens=6, rungs=rungs, num_samples=2, probes=(PROBE,)),
    )


def worker(num_slots: int = 3, slice_s: float = 0.0) -> Worker:
    """Return a worker on the CPU that returns after every step."""
    return Worker(WorkerSettings(device="cpu", num_slots=num_slots, slice_s=slice_s))


def start(number: int, folder: object, spec: TrialSpec) -> Start:
    """Return the command that starts a trial."""
    return Start(trial=Trial(number=number, params={"lora.r": lora_of(spec).r}, spec=spec), folder=f"{folder}/{number}")
