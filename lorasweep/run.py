"""Run a planned sweep, from its first trial to its leaderboard."""

import gc
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorasweep.core.files import redact_values, write_text
from lorasweep.core.messages import Listener, Summary
from lorasweep.core.provenance import provenance
from lorasweep.core.spec import digest
from lorasweep.devices.cpu import num_threads
from lorasweep.devices.devices import Device
from lorasweep.display.display import make_display
from lorasweep.driver.driver import Driver
from lorasweep.driver.ledger import Ledger
from lorasweep.driver.recorder import Recorder
from lorasweep.driver.run_folder import check_inputs, run_folder
from lorasweep.driver.worker_handle import WorkerHandle
from lorasweep.executors import fork_server
from lorasweep.executors.table import make_executor
from lorasweep.planning.describe import domain_text
from lorasweep.planning.plan import Plan
from lorasweep.report import write_reports
from lorasweep.report.from_folder import CONFIG, HEADER, TRACKED, leaderboard_of
from lorasweep.report.leaderboard import Leaderboard
from lorasweep.report.settings import SEED
from lorasweep.study.selection import Configuration
from lorasweep.study.study import Study
from lorasweep.tracking.base import SweepInfo
from lorasweep.tracking.mlflow import make_tracker
from lorasweep.tracking.queue import TrackingQueue

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The result of a run. `page` is the path of its view in the tracker's web page."""

    board: Leaderboard
    folder: Path
    page: str
    is_finished: bool
    is_preempted: bool  # by SIGTERM
    halted: str  # the reason why the sweep was halted; empty if it was not
    num_saved: int = 0  # unfinished trials with a checkpoint


def run_sweep(plan: Plan, text: str) -> Outcome:
    """Run or continue a sweep. `text` is its composed configuration as YAML.

    Raises:
        AlreadyRunning: another process runs this sweep.
        ConfigError: the data or the base changed since the run began, or the tracker can never be used.
    """
    folder = run_folder(plan)
    ledger = Ledger(folder, owner=f"process {os.getpid()} on {socket.gethostname()}")
    text = redact_values(text)  # only the tracker's address may contain a secret: other settings with one are refused
    try:
        if plan.config.study.retry_failed:
            ledger.set_failed_aside()
        check_inputs(plan, ledger)
        write_text(folder / CONFIG, text)
        ledger.note(HEADER, _header(plan))
        return _run(plan, text, ledger)
    finally:
        ledger.close()


def _run(plan: Plan, text: str, ledger: Ledger) -> Outcome:
    with _starting(plan) as handles:  # workers start while the study is opened; the tracker opens in its own thread
        facts = provenance()
        study, tracking = _open_study(plan, ledger), _open_tracking(plan, text, ledger, facts)
        workers = handles.result()
    if not gc.isenabled():  # disabled in `__main__`
        gc.freeze()
        gc.enable()
    listeners: list[Listener] = [make_display(plan), *([tracking] if tracking else [])]
    recorder = Recorder(ledger, study, listeners, objective=plan.config.eval.objective, provenance=facts)
    driver, signals = Driver(plan, recorder, workers), list[int]()
    if tracking:
        tracking.on_refusal = driver.stop
    try:
        with _interruptible(driver, signals):
            driver.run()
        board = _report(driver)
        _close(tracking, driver)
        if tracking and tracking.refusal:
            raise tracking.refusal
        if tracking and tracking.tracker.page:
            ledger.note(TRACKED, {"page": tracking.tracker.page})
    except BaseException:
        if tracking:
            tracking.abandon()
        raise
    finally:
        study.close()
    return Outcome(
        board=board,
        folder=ledger.folder,
        page=tracking.tracker.page if tracking else "",
        is_finished=driver.is_finished,
        is_preempted=signal.SIGTERM in signals,
        halted=driver.halted,
        num_saved=ledger.num_saved,
    )


@contextmanager
def _starting(plan: Plan) -> Iterator[Future[list[WorkerHandle]]]:
    """Start the workers; close them if the block raises.

    A fork waits until the fork server has imported its libraries, so another thread waits. A spawned process would end
    with the thread that started it, by PR_SET_PDEATHSIG.
    """
    started: Future[list[WorkerHandle]] = Future()
    if fork_server.is_usable():
        pool = ThreadPoolExecutor(1)
        started = pool.submit(_make_handles, plan)
        pool.shutdown(wait=False)
    else:
        started.set_result(_make_handles(plan))
    try:
        yield started
    except BaseException:
        for handle in [] if started.exception() else started.result():
            handle.executor.close()
        raise


def _make_handles(plan: Plan) -> list[WorkerHandle]:
    """Start a worker on every device."""
    threads = plan.config.threads or num_threads(len(plan.devices))
    return [_make_handle(plan, device, threads) for device in plan.devices]


def _make_handle(plan: Plan, device: Device, threads: int) -> WorkerHandle:
    restart = make_executor(plan.config.executor, plan.worker(device, threads), device, len(plan.devices))
    num_slots, kind = plan.slots[device.name], device.kind
    return WorkerHandle(executor=restart(), num_slots=num_slots, device=device.name, kind=kind, restart=restart)


def _open_study(plan: Plan, ledger: Ledger) -> Study:
    config = plan.config
    return Study(
        ledger.folder / "study.db",
        config.study,
        plan.domains,
        objective=config.eval.objective,
        num_rungs=config.eval.rungs,
    )


def _open_tracking(plan: Plan, text: str, ledger: Ledger, facts: Mapping[str, str]) -> TrackingQueue | None:
    config = plan.config
    tracker = make_tracker(config.tracking, config.sweep.name, ledger.run, str(ledger.folder))
    if tracker is None:
        return None
    device = ", ".join(dict.fromkeys(d.description for d in plan.devices))
    objective, destination = config.eval.objective, tracker.destination
    opening = SweepInfo(
        config=text,
        tags={"sweep": config.sweep.name, "device": device, "commit": facts["commit"], "objective": objective},
        data=_data(plan),
        swept={key: domain_text(domain) for key, domain in plan.domains.items()},
        objective=objective,
    )
    return TrackingQueue(
        tracker,
        opening,
        is_exported=lambda number: ledger.is_exported(number, destination),
        mark_exported=lambda number: ledger.mark_exported(number, destination),
    )


def _report(driver: Driver) -> Leaderboard:
    """Write the leaderboard, keep the best adapters, and send the summary to the tracker."""
    driver.recorder.show("writing the leaderboard, and the last results to the tracker")
    ledger, config = driver.ledger, driver.plan.config
    board = leaderboard_of(ledger.folder, ledger.results.values(), driver.plan.domains)
    files = write_reports(board, ledger.folder)
    # While seeds are missing, a mean over seeds and therefore the winner may still change.
    if driver.is_finished or SEED not in driver.plan.domains:
        _drop_adapters(board, ledger, config.study.keep_adapters)
    winner = driver.recorder.winner()
    metrics = {f"test/{name}": value for name, value in driver.test_metrics.items()}
    driver.recorder.emit(
        Summary(
            note=(ledger.folder / "leaderboard.md").read_text(),
            files=files,
            metrics=metrics | _winner_metrics(winner, config.eval.objective),
            adapter=ledger.adapter_folder(winner.result.number) if winner else None,
            is_finished=driver.is_finished,
        )
    )
    return board


def _winner_metrics(winner: Configuration | None, name: str) -> dict[str, float]:
    """Return the winner's objective and the scores of references, such as `base/accuracy` and `chance/accuracy`."""
    if winner is None:
        return {}
    objective = winner.objective(name)
    found = {} if objective is None else {name: objective}
    if base := winner.result.base:
        others = {"base": base.metrics, "chance": base.chance, "majority": base.majority}
        found |= {f"{kind}/{metric}": value for kind, metrics in others.items() for metric, value in metrics.items()}
    return found


def _close(tracking: TrackingQueue | None, driver: Driver) -> None:
    """Upload the remaining results to the tracker; warn about those that it did not accept."""
    if tracking and tracking.close() and not tracking.refusal:
        trained = [number for number, result in driver.ledger.results.items() if result.same_as is None]
        num_left = sum(not tracking.is_exported(number) for number in trained)
        missing = f"{num_left} of {len(trained)} results" if num_left else "the leaderboard"
        log.warning("not in MLflow yet: %s; run the same command again to upload the rest", missing)


def _header(plan: Plan) -> dict[str, Any]:
    """Return the name, question and objective of the sweep for its leaderboard, and each note on its data once."""
    of_data = (note for facts in plan.facts.values() for note in facts.notes)
    return {
        "name": plan.config.sweep.name,
        "question": plan.config.sweep.question,
        "objective": plan.config.eval.objective,
        "notes": list(dict.fromkeys([*plan.warnings, *of_data])),
    }


def _data(plan: Plan) -> dict[str, str]:
    """Return a name for each split's source and content."""
    spec = plan.trials[0].spec
    sources = {"train": spec.data.train, "validation": spec.data.validation, "test": spec.data.test}
    probes = {f"probe/{p.name}": p.path for p in spec.eval.probes}
    return {
        split: f"{source}@{digest([source, plan.facts[spec.data_key].content])}"
        for split, source in {**sources, **probes}.items()
        if source
    }


@contextmanager
def _interruptible(driver: Driver, signals: list[int]) -> Iterator[None]:
    """Stop the sweep after the time slice at the first SIGINT or SIGTERM, at once at the second; record the signals.

    Outside the main thread signals cannot be handled, so their handlers are unchanged.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_signal(number: int, _frame: object) -> None:
        signals.append(number)
        if driver.is_stopping:
            raise KeyboardInterrupt
        driver.stop()
        driver.recorder.show("stopping at the end of this time slice; all trials are saved (Ctrl-C again: at once)")

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _drop_adapters(board: Leaderboard, ledger: Ledger, keep: int) -> None:
    """Delete all adapters but those of the `keep` best trials."""
    best = [row.number for row in board.rows if row.rank is not None][:keep]
    for number in ledger.results:
        if number not in best:
            ledger.drop_adapter(number)
