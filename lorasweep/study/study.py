"""The Optuna study of a sweep: asks for trials, prunes them and records their results."""

import math
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from evaluation.metrics import METRICS
from lorasweep.config.grammar import Domain
from lorasweep.config.settings import StudySettings
from lorasweep.config.space import distributions
from lorasweep.core.messages import Rung, Stop
from lorasweep.core.result import TrialResult, TrialState
from lorasweep.core.trial import Params
from lorasweep.study.pruners import attribute, make_pruner, prune_decisions, report, reports_of
from lorasweep.study.rules import RungReport
from lorasweep.study.samplers import make_sampler
from lorasweep.study.storage import Direction, close_storage, open_study


class Study:
    """An Optuna study in a database file, with an ask-and-tell interface."""

    def __init__(
        self,
        path: Path,
        settings: StudySettings,
        domains: Mapping[str, Domain],
        *,
        objective: str,
        num_rungs: int,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.distributions = distributions(domains)
        direction: Direction = "maximize" if METRICS[objective].is_maximized else "minimize"
        self.study = open_study(path, direction, make_pruner(settings, num_rungs))
        self.settings, self.objective = settings, objective
        self._seed()
        self.open: dict[int, optuna.Trial] = {}
        self.num_lost = 0  # finished trials without a result; they do not count towards the number of trials
        self._counts: tuple[int, int] | None = None  # asked and queued, cached: counting reads every trial
        self._closed: set[int] = set()
        self._latest: dict[int, Rung] = {}  # the last report of each live trial
        self._is_asking = False  # stays true if the storage could not be written

    def close(self) -> None:
        """Close the database; SQLite then merges its log into the file."""
        close_storage(self.study)

    def _seed(self) -> None:
        """Seed the sampler by the number of trials, so that a new one does not repeat its first draws."""
        self.study.sampler = make_sampler(self.settings, self.settings.seed + len(self._trials()))

    @property
    def num_asked(self) -> int:
        """Return how many trials were ever asked for, except lost ones."""
        return self._counted()[0] - self.num_lost

    @property
    def num_queued(self) -> int:
        """Return how many points are queued."""
        return self._counted()[1]

    def _counted(self) -> tuple[int, int]:
        if self._counts is None:
            trials = self._trials()
            queued = sum(t.state == OptunaState.WAITING for t in trials)
            self._counts = (len(trials) - queued, queued)
        return self._counts

    def enqueue(self, points: Iterable[Params]) -> None:
        """Queue the points that the study does not contain yet."""
        seen = {_key(_point(t)) for t in self._trials()}
        self._counts = None
        for point in points:
            if _key(point) not in seen:
                self.study.enqueue_trial(point)

    def resume(self) -> list[tuple[int, Params]]:
        """Return the trials that were running when the last driver ended; they keep their numbers.

        A trial with missing parameters gets the rest of them.
        """
        running = [t for t in self._trials() if t.state == OptunaState.RUNNING and t.number not in self.open]
        for frozen in running:
            trial = self.open[frozen.number] = optuna.Trial(self.study, frozen._trial_id)
            for name, distribution in self.distributions.items():
                _draw(trial, name, distribution)
        return [(frozen.number, dict(self.open[frozen.number].params)) for frozen in running]

    def restore(self, results: Mapping[int, TrialResult]) -> None:
        """Make the study agree with the results on disk.

        A lost study is rebuilt; the point of a finished trial without a result is queued again.
        """
        for number in range(len(self._trials()), max(results, default=-1) + 1):
            self._add(results.get(number))
        self._seed()  # trials may have been added
        have = {_key(r.params) for r in results.values()}
        for frozen in self._trials():
            if frozen.state.is_finished() and frozen.number not in results:
                self.num_lost += 1
                if (point := _point(frozen)) and _key(point) not in have:
                    self.study.enqueue_trial(point)
        self._counts = None
        self._closed = {t.number for t in self._trials() if t.state.is_finished()}

    def _add(self, result: TrialResult | None) -> None:
        if result is None:
            self.study.add_trial(optuna.trial.create_trial(state=OptunaState.FAIL))
            return
        value, state = _value_and_state(result)
        found = reports_of(result)
        self.study.add_trial(
            optuna.trial.create_trial(
                params=dict(result.params),
                distributions=self.distributions,
                value=value,
                state=state,
                user_attrs=dict(map(attribute, found)),
                constraints=dict([_constraint(result)]),
                intermediate_values={rung_report.rung: rung_report.value for rung_report in found},
            )
        )

    def _trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def ask(self) -> tuple[int, Params]:
        """Return the next trial's number and parameters; a trial whose sampling failed before comes first."""
        if self._is_asking and (torn := self.resume()):
            self._is_asking = False
            return torn[0]
        self._is_asking = True
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            counts, self._counts = self._counted(), None
            trial = self.study.ask(fixed_distributions=self.distributions)
        self._is_asking = False
        self._counts = (counts[0] + 1, max(0, counts[1] - 1))  # queued points come first
        self.open[trial.number] = trial
        return trial.number, dict(trial.params)

    def report(self, number: int, rung_report: RungReport) -> None:
        """Report a trial's objective at a rung, if it is finite."""
        if math.isfinite(rung_report.value):
            report(self.study, self.open[number], rung_report)

    def prune(self, rungs: Sequence[Rung], live: Collection[int]) -> list[Stop]:
        """Return commands that stop trials: among those that have just reported, and with `rules` also earlier ones.

        A trial that reaches a rung early has few peers, so the rules compare it again when later trials report at that
        rung.
        """
        now = {event.number: event for event in rungs}
        self._latest = {n: event for n, event in self._latest.items() if n in live} | now
        levels = {event.rung for event in rungs} if self.settings.pruner == "rules" else set()
        reports = now | {n: event for n, event in self._latest.items() if event.rung in levels}
        found = prune_decisions(self.study, {n: event.rung for n, event in reports.items()}) if reports else {}
        for number in found:
            self._latest.pop(number)
        return [self._stop(reports[number], decision.rule, decision.reason) for number, decision in found.items()]

    def _stop(self, event: Rung, rule: str, reason: str) -> Stop:
        where = f"{self.objective} {event.value:.4g} at rung {event.rung} (step {event.point.step})"
        words = [f"{self.settings.pruner} pruner", where, *([reason] if reason else [])]
        return Stop(number=event.number, reason=": ".join(words), rule=rule or self.settings.pruner)

    def tell(self, number: int, result: TrialResult) -> None:
        """Close a trial with its result. A closed trial is not changed."""
        if number in self._closed:
            return
        trial = self.open.get(number)
        if trial is None:
            frozen = self._trials()[number]
            if frozen.state.is_finished():
                return
            trial = optuna.Trial(self.study, frozen._trial_id)
        if result.reason:
            trial.set_user_attr("reason", result.reason[:2000])
        if result.stopped_by:
            trial.set_user_attr("stopped_by", result.stopped_by)
        with warnings.catch_warnings():
            # An earlier driver may have set it before it died.
            warnings.filterwarnings("ignore", "The constraint value is ignored", UserWarning)
            trial.set_constraint(*_constraint(result))
        value, state = _value_and_state(result)
        self.study.tell(trial, value, state=state, skip_if_finished=True)
        self.open.pop(number, None)
        self._closed.add(number)


def _key(params: Mapping[str, Any]) -> frozenset[tuple[str, Any]]:
    return frozenset(params.items())


def _point(trial: FrozenTrial) -> Params:
    """Return a trial's parameters, including queued ones that it has not received yet."""
    return dict(trial.system_attrs.get("fixed_params") or trial.params)


def _draw(trial: optuna.Trial, name: str, distribution: optuna.distributions.BaseDistribution) -> None:
    """Set a parameter of a trial: to its stored value, to its queued value, or to the sampler's."""
    if isinstance(distribution, optuna.distributions.CategoricalDistribution):
        trial.suggest_categorical(name, distribution.choices)
        return
    assert isinstance(distribution, optuna.distributions.FloatDistribution | optuna.distributions.IntDistribution)
    suggest: Any = trial.suggest_int if isinstance(distribution.low, int) else trial.suggest_float
    suggest(name, distribution.low, distribution.high, step=distribution.step, log=distribution.log)


def _value_and_state(result: TrialResult) -> tuple[float | None, OptunaState]:
    if result.state is TrialState.COMPLETE and result.objective is not None and math.isfinite(result.objective):
        return result.objective, OptunaState.COMPLETE
    # Samplers learn from pruned trials and their constraints, but not from failed trials.
    learns = result.state in (TrialState.PRUNED, TrialState.INFEASIBLE)
    return None, OptunaState.PRUNED if learns else OptunaState.FAIL


def _constraint(result: TrialResult) -> tuple[str, float]:
    """Return the constraint of a trial, negative if satisfied; samplers require one of every trial."""
    return "memory", 1.0 if result.state is TrialState.INFEASIBLE else -1.0
