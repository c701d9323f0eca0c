"""Record a sweep in MLflow: one parent run, and one nested child run per trial.

Only the driver writes, and only with `MlflowClient`. Every call can be repeated: runs are found again by a tag that is
unique per run folder and trial.
"""

import json
import logging
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from textwrap import shorten
from typing import Any

from evaluation.metrics import METRICS
from lorasweep.config.settings import TrackingSettings
from lorasweep.core.errors import ConfigError
from lorasweep.core.files import redact
from lorasweep.core.messages import Finished, Rung, Summary, SweepEvent, TrialStarted
from lorasweep.core.result import Point, TrialResult
from lorasweep.core.spec import digest
from lorasweep.core.trial import Trial, short_name
from lorasweep.tracking.base import SweepInfo
from lorasweep.tracking.fields import STATUS, named, points, result_tags, space_params, trial_params
from lorasweep.tracking.mlflow_store import is_unreachable, make_client, place
from lorasweep.tracking.naming import plain_name, trial_name
from lorasweep.tracking.view import saved_view, view_key

log = logging.getLogger(__name__)

TRAINING = "workflowType=machine_learning"  # without it MLflow's page opens its view for traces of language models
BATCH = 900  # a tracking server accepts 1000 metrics per call


def make_tracker(settings: TrackingSettings, name: str, key: str, folder: str = "") -> "MlflowTracker | None":
    """Return the tracker of the settings, None for `none`; `key` stays the same when the run's folder moves."""
    return None if settings.backend == "none" else MlflowTracker(settings, name, key, folder)


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """A run, and the names of its logged parameters."""

    run_id: str
    params: set[str] = field(default_factory=set)


class MlflowTracker:
    """Records a sweep as a parent run with one child run per trial."""

    def __init__(self, settings: TrackingSettings, name: str, key: str, folder: str = "") -> None:
        self.settings, self.name = settings, name
        self.key, self.folder = key, folder or key
        self.uri, self.database = place(settings.uri)
        self.destination = digest([self.uri, settings.experiment])  # hashed, because the URI may contain a password
        self.client: Any = None
        self.experiment = self.parent = self.page = ""
        self.children: dict[int, Child] = {}
        self.names: dict[int, str] = {}  # of the trials' runs
        self._maybe_created: set[int] = set()  # trials whose run may exist although its creation was not confirmed

    def open(self) -> None:
        """Import MLflow, which takes seconds, and open the store.

        Raises:
            ConfigError: the store can never be used. One that does not answer now only leads to a warning.
        """
        try:
            self.client = make_client(self.uri, self.database)
            self.experiment = self._experiment(self.settings.experiment)
        except Exception as error:  # every store raises its own types
            reason, where = shorten(redact(str(error)), 200), redact(self.settings.uri or "mlflow.db")
            if not is_unreachable(error):
                text = f"tracking.uri: {where} cannot be used: {reason}; or set tracking=none"
                raise ConfigError([text]) from error
            log.warning(
                "tracking.uri: %s does not answer; results are kept in the run folder until it does (%s)", where, reason
            )

    def begin(self, info: SweepInfo) -> None:
        """Create the sweep's parent run, or find it with all its children, and save a view of its trials.

        Raises:
            ConfigError: see `open`.
        """
        if self.client is None:
            self.open()
        self.experiment = self.experiment or self._experiment(self.settings.experiment)
        run = self._find(self.key)
        self.tags, self.data = {**info.tags, "lorasweep.folder": self.folder}, dict(info.data)
        self.parent = run.run_id if run else self._create(self.key, self.name, {"lorasweep.kind": "sweep"})
        if run:
            self.children = self._known_children()
            self.client.set_tag(self.parent, "lorasweep.folder", self.folder)  # it may have moved
        self.client.update_run(self.parent, status="RUNNING")
        self.client.log_text(self.parent, info.config, "config.yaml")
        self._log_inputs(self.parent)
        self._log(run or Child(run_id=self.parent), params=space_params(info.swept))
        self._save_view(info)

    def handle(self, event: SweepEvent) -> None:
        """Log an event; repeating it changes nothing."""
        match event:
            case TrialStarted():
                self._start(event.trial)
            case Rung():
                self._log(self._child(event.number), points=[named(event.point)])
            case Finished():
                self._export(event.result)
            case Summary():
                self._end(event)

    def _start(self, trial: Trial) -> None:
        """Create a trial's child run, so that it can be watched."""
        self.names[trial.number] = trial_name(trial)
        self._log(self._child(trial.number), params=trial_params(trial))

    def _export(self, result: TrialResult) -> None:
        """Log a trial's result and end its run."""
        self.names[result.number] = trial_name(result.trial)
        child = self._child(result.number)
        params = trial_params(result.trial)
        self._log(child, tags=result_tags(result), params=params, points=points(result))
        self._log_files(child.run_id, result)
        self.client.set_terminated(child.run_id, STATUS[result.state], int(result.ended_s * 1000))

    def _end(self, event: Summary) -> None:
        """Log the leaderboard on the parent run and end it."""
        self.client.set_tag(self.parent, "mlflow.note.content", event.note)
        for file in event.files:
            self.client.log_artifact(self.parent, str(file))
        if event.adapter is not None and event.adapter.is_dir():
            self.client.log_artifacts(self.parent, str(event.adapter), "adapter")
        final = Point(step=0, metrics=dict(event.metrics), time_s=time.time())
        self._log(Child(run_id=self.parent), points=[final])
        self.client.set_terminated(self.parent, "FINISHED" if event.is_finished else "KILLED")

    def _save_view(self, info: SweepInfo) -> None:
        name = Path(self.folder).name
        params = [short_name(k) for k in info.swept]
        now_ms = int(time.time() * 1000)
        maximize = METRICS[info.objective].is_maximized
        tag = saved_view(name, self.parent, info.objective, maximize=maximize, params=params, created_ms=now_ms)
        self.client.set_experiment_tag(self.experiment, *tag)
        self.page = f"#/experiments/{self.experiment}/runs?{TRAINING}&viewStateShareKey={view_key(name)}"

    def _experiment(self, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        artifacts = (self.database.parent / "mlartifacts").as_uri() if self.database else None
        return str(self.client.create_experiment(name, artifact_location=artifacts))

    def _child(self, number: int) -> Child:
        """Return a trial's run; search for it only if its creation was not confirmed, because that takes a call."""
        if number not in self.children:
            key = f"{self.key}/{number}"
            found = self._find(key) if number in self._maybe_created else None
            self._maybe_created.add(number)
            if found is None:
                tags = {"mlflow.parentRunId": self.parent, "lorasweep.kind": "trial"}
                found = Child(run_id=self._create(key, self.names.get(number, plain_name(number)), tags))
            self._log_inputs(found.run_id)
            self.children[number] = found
        return self.children[number]

    def _known_children(self) -> dict[int, Child]:
        """Return the trials' runs that earlier launches created."""
        children, token = {}, None
        while True:
            query = f"tags.`mlflow.parentRunId` = '{self.parent}'"
            page = self.client.search_runs([self.experiment], query, max_results=1000, page_token=token)
            for run in page:
                number = run.data.tags.get("lorasweep.key", "").removeprefix(f"{self.key}/")
                if number.isdecimal():
                    children[int(number)] = Child(run_id=run.info.run_id, params=set(run.data.params))
            token = page.token
            if not token:
                return children

    def _find(self, key: str) -> Child | None:
        found = self.client.search_runs([self.experiment], f"tags.`lorasweep.key` = '{key}'", max_results=1)
        return Child(run_id=str(found[0].info.run_id), params=set(found[0].data.params)) if found else None

    def _create(self, key: str, name: str, tags: Mapping[str, str]) -> str:
        full = {**self.tags, **tags, "lorasweep.key": key, "mlflow.user": os.environ.get("USER", "unknown")}
        run = self.client.create_run(self.experiment, run_name=name, tags=full)
        return str(run.info.run_id)

    def _log(
        self,
        child: Child,
        *,
        tags: Mapping[str, str] | None = None,
        params: Mapping[str, Any] | None = None,
        points: Sequence[Point] = (),
    ) -> None:
        """Log everything in as few calls as possible. Logged parameters are skipped, because they cannot be changed."""
        from mlflow.entities import Param, RunTag

        new = {k: str(v)[:500] for k, v in (params or {}).items() if k not in child.params}
        metrics = _metrics(points)
        self.client.log_batch(
            child.run_id,
            metrics=metrics[:BATCH],
            params=[Param(k, v) for k, v in new.items()],
            tags=[RunTag(k, v) for k, v in (tags or {}).items()],
        )
        child.params.update(new)
        for start in range(BATCH, len(metrics), BATCH):
            self.client.log_batch(child.run_id, metrics=metrics[start : start + BATCH])

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


def _metrics(points: Sequence[Point]) -> list[Any]:
    from mlflow.entities import Metric

    return [
        Metric(name, float(value), int(point.time_s * 1000), point.step)
        for point in points
        for name, value in point.metrics.items()
        if math.isfinite(value)
    ]
