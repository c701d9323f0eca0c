"""Record a sweep in MLflow: one parent run, one nested child per trial.

Only the driver writes, through `MlflowClient` alone. Every call can be repeated: runs are found again by a tag that
is unique to run folder and trial.
"""

import json
import logging
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lorasweep.config import TrackingSettings
from lorasweep.errors import ConfigError
from lorasweep.files import provision, redact, sqlite_url
from lorasweep.mlflow_view import saved_view, view_key
from lorasweep.result import Point, Rung, TrialResult, TrialState
from lorasweep.spec import digest
from lorasweep.tracker import NullTracker, Opening, Tracker

STATUS = {
    TrialState.COMPLETE: "FINISHED",
    TrialState.PRUNED: "KILLED",
    TrialState.INFEASIBLE: "FAILED",
    TrialState.FAILED: "FAILED",
}
BATCH = 900  # a tracking server takes 1000 metrics in one call


def make_tracker(settings: TrackingSettings, name: str, key: str) -> Tracker:
    """Return the tracker that the settings name."""
    return NullTracker() if settings.backend == "none" else MlflowTracker(settings, name, key)


class MlflowTracker:
    """A parent run named after the sweep, with a child per trial."""

    def __init__(self, settings: TrackingSettings, name: str, key: str) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        # By default a call to a server that is away blocks for four minutes; results wait in the ledger anyway.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
        from mlflow import MlflowClient

        # Importing MLflow sets its loggers up; they would tell of every table they create.
        for noisy in ("mlflow", "alembic"):
            logging.getLogger(noisy).setLevel(logging.ERROR)

        try:
            uri, database = _open(settings.uri)
            self.client = MlflowClient(uri)
            self.experiment = self._experiment(settings.experiment, database)
        except Exception as error:  # every kind of store has its own errors; all mean that this one cannot be used
            reason = str(error).splitlines()[0]
            where = redact(settings.uri or "mlflow.db")
            raise ConfigError(
                [f"tracking.uri: {where} cannot be used: {redact(reason)}; or set tracking=none"]
            ) from error
        self.name = name
        self.key = key
        self.parent = self.page = ""
        self.destination = digest([uri, settings.experiment])  # hashed, for it may hold a password
        self.children: dict[int, str] = {}

    def begin(self, opening: Opening) -> None:
        """Open the sweep's parent run, or find it again, and save a view of its trials."""
        run = self._find(self.key)
        self.tags, self.data = dict(opening.tags), dict(opening.data)
        self.parent = run or self._create(self.key, self.name, {**self.tags, "lorasweep.kind": "sweep"})
        self.client.update_run(self.parent, status="RUNNING")
        self.client.log_text(self.parent, opening.config, "config.yaml")
        if not run:
            self._log_inputs(self.parent)
        self._save_view(opening)

    def start(self, number: int, params: Mapping[str, Any]) -> None:
        """Open a trial's child run, so that it can be watched."""
        from mlflow.entities import Param

        run = self._child(number)
        self.client.log_batch(run, params=[Param(_short(k), str(v)) for k, v in params.items()])

    def rung(self, event: Rung) -> None:
        """Log what a trial reported."""
        self._log_metrics(self._child(event.number), [event.point])

    def export(self, result: TrialResult) -> None:
        """Log a trial's whole result; repeating it changes nothing."""
        from mlflow.entities import Param, RunTag

        run = self._child(result.number)
        params = {**_flat_spec(result), **{_short(k): v for k, v in result.params.items()}}
        tags = {
            "state": result.state.value,
            "base": result.spec.model.id,
            "precision": result.spec.model.precision,
            "fingerprint": result.fingerprint,
            **({"reason": result.reason[:4000]} if result.reason else {}),
            **({"stopped_by": result.stopped_by} if result.stopped_by else {}),
        }
        self.client.log_batch(run, tags=[RunTag(k, v) for k, v in tags.items()])
        self._log_new_params(run, [Param(k, str(v)[:500]) for k, v in params.items()])
        step = result.history[-1].step if result.history else 0
        final = Point(step=step, metrics=_final_metrics(result), time_s=result.ended_s)
        self._log_metrics(run, [*result.history, final])
        self._log_files(run, result)
        self.client.set_terminated(run, STATUS[result.state], int(result.ended_s * 1000))

    def end(
        self, note: str, files: Sequence[Path], metrics: Mapping[str, float], adapter: Path | None, *, finished: bool
    ) -> None:
        """Put the leaderboard on the parent run and close it."""
        self.client.set_tag(self.parent, "mlflow.note.content", note)
        for file in files:
            self.client.log_artifact(self.parent, str(file))
        if adapter is not None and adapter.is_dir():
            self.client.log_artifacts(self.parent, str(adapter), "adapter")
        self._log_metrics(self.parent, [Point(step=0, metrics=dict(metrics), time_s=time.time())])
        self.client.set_terminated(self.parent, "FINISHED" if finished else "KILLED")

    def _save_view(self, opening: Opening) -> None:
        name = Path(self.key).name
        params = [_short(k) for k in opening.swept]
        now_ms = int(time.time() * 1000)
        tag = saved_view(name, self.parent, "objective", maximize=opening.maximize, params=params, created_ms=now_ms)
        self.client.set_experiment_tag(self.experiment, *tag)
        self.page = f"#/experiments/{self.experiment}/runs?viewStateShareKey={view_key(name)}"

    def _experiment(self, name: str, database: Path | None) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        artifacts = (database.parent / "mlartifacts").as_uri() if database else None
        return str(self.client.create_experiment(name, artifact_location=artifacts))

    def _child(self, number: int) -> str:
        if number not in self.children:
            key = f"{self.key}/{number}"
            tags = {**self.tags, "mlflow.parentRunId": self.parent, "lorasweep.kind": "trial"}
            run = self._find(key)
            if run is None:
                run = self._create(key, f"trial-{number:03d}", tags)
                self._log_inputs(run)
            self.children[number] = run
        return self.children[number]

    def _find(self, key: str) -> str | None:
        found = self.client.search_runs([self.experiment], f"tags.`lorasweep.key` = '{key}'", max_results=1)
        return str(found[0].info.run_id) if found else None

    def _create(self, key: str, name: str, tags: Mapping[str, str]) -> str:
        full = {**tags, "lorasweep.key": key, "mlflow.user": os.environ.get("USER", "unknown")}
        run = self.client.create_run(self.experiment, run_name=name, tags=full)
        return str(run.info.run_id)

    def _log_metrics(self, run: str, points: Sequence[Point]) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(name, float(value), int(point.time_s * 1000), point.step)
            for point in points
            for name, value in point.metrics.items()
            if math.isfinite(value)
        ]
        for start in range(0, len(metrics), BATCH):
            self.client.log_batch(run, metrics=metrics[start : start + BATCH])

    def _log_new_params(self, run: str, params: Sequence[Any]) -> None:
        """Parameters cannot be changed, so those that are there already stay."""
        known = self.client.get_run(run).data.params
        self.client.log_batch(run, params=[p for p in params if p.key not in known])

    def _log_inputs(self, run: str) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = [
            DatasetInput(
                Dataset(name=source, digest=digest[:36], source_type="local", source=json.dumps({"uri": source})),
                [InputTag("mlflow.data.context", split.split("/")[0])],
            )
            for split, (source, digest) in ((k, v.rsplit("@", 1)) for k, v in self.data.items())
        ]
        if inputs:
            self.client.log_inputs(run, inputs)

    def _log_files(self, run: str, result: TrialResult) -> None:
        self.client.log_dict(run, {"params": result.params, "spec": asdict(result.spec)}, "spec.json")
        if result.samples:
            rows = [[s.prompt, s.reference, s.output] for s in result.samples]
            self.client.log_dict(run, {"columns": ["prompt", "reference", "output"], "data": rows}, "samples.json")


def _open(uri: str | None) -> tuple[str, Path | None]:
    """Return the tracking URI and, of an embedded store, its file; by default the one that plain `mlflow ui` shows."""
    if uri is not None and not uri.startswith("sqlite:///"):
        return uri, None
    path = Path("mlflow.db" if uri is None else uri.removeprefix("sqlite:///")).absolute()
    provision(path, _create_database)
    return sqlite_url(path), path


def _create_database(path: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore(sqlite_url(path), str(path.parent))  # type: ignore[no-untyped-call]
    store.engine.dispose()


def _short(key: str) -> str:
    """Name a parameter as people do: `r`, not `lora.r`."""
    return key.split(".")[-1]


def _flat_spec(result: TrialResult) -> dict[str, Any]:
    spec = result.spec
    return {
        "r": spec.lora.r,
        "lora_alpha": spec.lora.lora_alpha,
        "lora_dropout": spec.lora.lora_dropout,
        "target_modules": ",".join(spec.lora.target_modules),
        "learning_rate": spec.train.learning_rate,
        "batch_size": spec.train.per_device_train_batch_size * spec.train.gradient_accumulation_steps,
        "lr_scheduler_type": spec.train.lr_scheduler_type,
        "weight_decay": spec.train.weight_decay,
        "optim": spec.train.optim,
        "precision": spec.model.precision,
        "dtype": spec.model.dtype,
        "seed": spec.train.seed,
    }


def _final_metrics(result: TrialResult) -> dict[str, float]:
    """Put the objective under its own name, and what the trial cost."""
    cost = result.cost
    values = {
        **result.metrics,
        "wall_s": cost.wall_s,
        "its_per_s": cost.its_per_s,
        "tokens_per_s": cost.tokens_per_s,
        "peak_memory_gib": cost.peak_bytes / 2**30,
        "predicted_memory_gib": cost.predicted_bytes / 2**30,
        **({} if cost.memory_error is None else {"memory_error": cost.memory_error}),
        "memory_share_gib": cost.share_bytes / 2**30,
        "memory_alone_gib": cost.alone_bytes / 2**30,
        "trainable_parameters": float(cost.trainable_parameters),
        "trainable_percent": cost.trainable_percent,
        "adapter_mb": cost.adapter_bytes / 1e6,
    }
    return values if result.objective is None else {"objective": result.objective, **values}
