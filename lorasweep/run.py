"""Run a planned sweep from its first trial to its leaderboard."""

import gc
import logging
import os
import signal
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from evaluation.metrics import METRICS
from lorasweep.config.build import SweepConfig
from lorasweep.core.errors import ConfigError
from lorasweep.core.files import redact_values, write_text
from lorasweep.core.provenance import provenance
from lorasweep.core.result import WorkerSettings
from lorasweep.core.spec import digest
from lorasweep.devices.cpu import num_threads
from lorasweep.devices.devices import Device, free_bytes
from lorasweep.display.display import make_display
from lorasweep.driver.driver import Driver
from lorasweep.driver.ledger import Ledger
from lorasweep.driver.recorder import Record
from lorasweep.driver.worker_handle import Seat
from lorasweep.executors.base import Executor
from lorasweep.executors.local import LocalExecutor
from lorasweep.planning.describe import domain_words
from lorasweep.planning.plan import Plan
from lorasweep.report import write_reports
from lorasweep.report.leaderboard import Leaderboard, build_leaderboard
from lorasweep.report.settings import SEED
from lorasweep.study.study import Study
from lorasweep.tracking.base import Opening
from lorasweep.tracking.mlflow import make_tracker
from lorasweep.tracking.queue import Courier

log = logging.getLogger(__name__)

# What may change between two launches of the same sweep without changing any trial.
LIMITS = (
    "trials",
    "timeout_min",
    "slots",
    "keep_adapters",
    "device_wait_min",
    "hang_min",
    "halt_after",
    "retry_failed",
)
ELSEWHERE = ("tracking", "devices", "workers", "threads", "executor", "output_dir")


def run_folder(raw: Mapping[str, Any], config: SweepConfig) -> Path:
    """Return the folder of this very sweep: the same settings find it again, other settings another one."""
    kept = {k: v for k, v in raw.items() if k not in ELSEWHERE}
    kept["study"] = {k: v for k, v in (raw.get("study") or {}).items() if k not in LIMITS}
    return Path(config.output_dir) / f"{config.sweep.name}-{digest(kept)[:8]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run left behind. `page` is the address of its view inside the tracker's web page."""

    board: Leaderboard
    folder: Path
    page: str
    is_finished: bool
    is_preempted: bool  # by SIGTERM
    halted: str  # why the sweep gave itself up, empty where it did not
    num_saved: int = 0  # trials that go on from their checkpoints


def run_sweep(plan: Plan, text: str) -> Outcome:
    """Run a sweep, or what is left of it.

    Raises:
        AlreadyRunning: another process runs this sweep.
    """
    folder = run_folder(plan.raw, plan.config)
    ledger = Ledger(folder, owner=f"process {os.getpid()} on {socket.gethostname()}")
    text = redact_values(text)  # settings are refused where they hold a secret, but for the tracker's address
    try:
        if plan.config.study.retry_failed:
            ledger.set_failed_aside()
        _check_inputs(plan, ledger)
        write_text(folder / "config.yaml", text)
        return _run(plan, text, ledger)
    finally:
        ledger.close()


def _check_inputs(plan: Plan, ledger: Ledger) -> None:
    """Refuse to mix results of different data or weights that stand under the same names."""
    specs = [plan.spec(point) for point in plan.points]
    inputs = {spec.data_key: plan.facts[spec.data_key].content for spec in specs}
    inputs |= {spec.base_key: plan.info(spec.model).fingerprint for spec in specs}
    noted = ledger.noted("inputs")
    if ledger.results and any(noted.get(key, value) != value for key, value in inputs.items()):
        raise ConfigError([f"{ledger.folder}: {CHANGED}"])
    if any(noted.get(key, value) != value for key, value in inputs.items()):
        ledger.drop_checkpoints()
    ledger.note("inputs", noted | inputs)


CHANGED = (
    "the data or the base changed since this run began, so its results cannot be compared with new ones; set another "
    "sweep.name or output_dir"
)


def _run(plan: Plan, text: str, ledger: Ledger) -> Outcome:
    seats = _seats(plan)  # first, for workers begin while what follows is opened
    try:
        driver = _assemble(plan, text, ledger, seats)
    except BaseException:
        for seat in seats:
            seat.executor.close()
        raise
    if not gc.isenabled():  # since the program began
        gc.freeze()
        gc.enable()
    signals: list[int] = []
    try:
        with _interruptible(driver, signals):
            driver.run()
        board = _report(driver)
    except BaseException:
        driver.record.courier.abandon()
        raise
    return Outcome(
        board=board,
        folder=ledger.folder,
        page=driver.record.courier.tracker.page,
        is_finished=driver.is_finished,
        is_preempted=signal.SIGTERM in signals,
        halted=driver.outbox.halted,
        num_saved=ledger.num_saved,
    )


def _assemble(plan: Plan, text: str, ledger: Ledger, seats: list[Seat]) -> Driver:
    facts = provenance()
    study, courier = _open_study(plan, ledger), _open_courier(plan, text, ledger, facts)
    display, objective = make_display(plan), plan.config.eval.objective
    record = Record(ledger, study, courier, display, objective=objective, provenance=facts)
    return Driver(plan, record, display, seats)


def _open_study(plan: Plan, ledger: Ledger) -> Study:
    config = plan.config
    return Study(
        ledger.folder / "study.db",
        config.study,
        plan.domains,
        maximize=METRICS[config.eval.objective].is_maximized,
        num_rungs=config.eval.rungs,
    )


def _open_courier(plan: Plan, text: str, ledger: Ledger, facts: Mapping[str, str]) -> Courier:
    config = plan.config
    tracker = make_tracker(config.tracking, config.sweep.name, ledger.run, str(ledger.folder))
    device = ", ".join(dict.fromkeys(d.description for d in plan.devices))
    objective = config.eval.objective
    tags = {"sweep": config.sweep.name, "device": device, "commit": facts["commit"], "objective": objective}
    opening = Opening(
        config=text,
        tags=tags,
        data=_data(plan),
        swept={key: domain_words(domain) for key, domain in plan.domains.items()},
        objective=objective,
        maximize=METRICS[objective].is_maximized,
    )
    return Courier(tracker, opening)


def _report(driver: Driver) -> Leaderboard:
    """Write the leaderboard, keep the best adapters, and close the sweep's run."""
    driver.display.say("writing the leaderboard, and the last results to the tracker")
    ledger, config = driver.ledger, driver.plan.config
    results = list(ledger.results.values())
    board = build_leaderboard(
        [r for r in results if r.same_as is None],
        name=config.sweep.name,
        question=config.sweep.question,
        objective=config.eval.objective,
        domains=driver.plan.domains,
        test_metrics=driver.test_metrics or None,
        notes=(*driver.plan.warnings, *_notes(driver)),
        num_saved=ledger.num_saved,
    )
    files = write_reports(board, ledger.folder)
    # While seeds are missing, a mean over them may still change, and with it the winner.
    if driver.is_finished or SEED not in driver.plan.domains:
        _drop_adapters(board, ledger, config.study.keep_adapters)
    note = (ledger.folder / "leaderboard.md").read_text()
    driver.record.close(note, files, driver.test_metrics, is_finished=driver.is_finished)
    return board


def _notes(driver: Driver) -> list[str]:
    """Return what the data's readers and the workers said, each once."""
    of_data = (note for facts in driver.plan.facts.values() for note in facts.notes)
    return list(dict.fromkeys([*of_data, *driver.record.notes]))


def _data(plan: Plan) -> dict[str, str]:
    """Name each split's source and its content."""
    spec = plan.spec(plan.points[0])
    sources = {"train": spec.data.train, "validation": spec.data.validation, "test": spec.data.test}
    probes = {f"probe/{p.name}": p.path for p in spec.eval.probes}
    return {
        split: f"{source}@{digest([source, plan.facts[spec.data_key].content])}"
        for split, source in {**sources, **probes}.items()
        if source
    }


def _seats(plan: Plan) -> list[Seat]:
    threads = plan.config.threads or num_threads(len(plan.devices))
    return [_seat(plan, device, threads) for device in plan.devices]


def _seat(plan: Plan, device: Device, threads: int) -> Seat:
    reopen = partial(_executor, plan, plan.worker(device, threads))
    name, kind = device.name, device.kind
    seat = Seat(executor=reopen(), num_slots=plan.slots[name], device=name, kind=kind, reopen=reopen)

    def room() -> float | None:
        """Return what a worker may use now; on the CPU what was free at the start, its own use included."""
        free = free_bytes(device, seat.executor.pid) if device.is_gpu else device.free_bytes
        return None if free is None else plan.budget(free)

    seat.room = room
    return seat


def _executor(plan: Plan, settings: WorkerSettings) -> Executor:
    """A lone CPU worker lives in this process; others get one each, which can die without harm to the sweep."""
    kind = plan.config.executor
    if kind == "auto":
        kind = "inline" if settings.device == "cpu" and len(plan.devices) == 1 else "local"
    if kind == "local":
        return LocalExecutor(settings)
    from lorasweep.executors.inline import InlineExecutor  # a second of imports that others have no use for

    return InlineExecutor(settings)


@contextmanager
def _interruptible(driver: Driver, signals: list[int]) -> Iterator[None]:
    """Let the first Ctrl-C, or SIGTERM, end the sweep in order, the second at once; note which came."""

    def on_signal(number: int, _frame: object) -> None:
        signals.append(number)
        if driver.is_stopping:
            raise KeyboardInterrupt
        driver.stop()
        driver.display.say("stopping at the end of this time slice; all trials are kept (Ctrl-C again: at once)")

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _drop_adapters(board: Leaderboard, ledger: Ledger, keep: int) -> None:
    """Keep the adapters of the best trials only."""
    best = [row.number for row in board.rows if row.rank is not None][:keep]
    for number in ledger.results:
        if number not in best:
            ledger.drop_adapter(number)
