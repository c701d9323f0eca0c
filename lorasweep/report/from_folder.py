"""Build the leaderboard of a run folder from its files, without training and without reading base or data."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from lorasweep.config.grammar import Domain, parse
from lorasweep.config.space import leaves
from lorasweep.core.errors import ConfigError
from lorasweep.core.result import TrialResult
from lorasweep.driver.ledger import num_saved, read_note, read_results, run_of_results
from lorasweep.report import write_reports
from lorasweep.report.leaderboard import Leaderboard, build_leaderboard
from lorasweep.study.selection import winner

log = logging.getLogger(__name__)

CONFIG = "config.yaml"
HEADER = "plan"  # the note of a run's name, question, objective and notes on its data
TRACKED = "tracker"  # the note of where the tracker's web page shows the run


def load_leaderboard(folder: Path) -> Leaderboard:
    """Return the leaderboard of a run folder; nothing is written.

    Raises:
        ConfigError: the folder is not a run folder.
    """
    raw = read_config(folder)
    return leaderboard_of(folder, _results(folder), _domains(raw))


def leaderboard_of(folder: Path, results: Iterable[TrialResult], domains: Mapping[str, Domain]) -> Leaderboard:
    """Rank the results of a run folder, with its notes on data and workers and the winner's test scores."""
    results = [result for result in results if result.same_as is None]
    header = read_note(folder, HEADER) or read_note(folder, "leaderboard")  # older versions: only this
    if not header:
        raise ConfigError([f"{folder}: has neither {HEADER}.json nor leaderboard.json; run the same sweep again"])
    objective = str(header["objective"])
    best, test = winner(results, objective), read_note(folder, "test")
    is_tested = best is not None and test.get("trial") == best.result.number
    trials = folder / "trials"
    return build_leaderboard(
        results,
        name=str(header["name"]),
        question=str(header["question"]),
        objective=objective,
        domains=domains,
        test_metrics=test.get("metrics") if is_tested else None,
        notes=tuple(dict.fromkeys([*header["notes"], *read_note(folder, "notes").get("notes", [])])),
        num_saved=num_saved(folder),
        adapters={int(p.parent.name): p for p in trials.glob("*/adapter") if p.parent.name.isdecimal()},
    )


def update_reports(board: Leaderboard, folder: Path) -> bool:
    """Rewrite the leaderboard's files; write nothing and return False while a sweep runs in the folder."""
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    try:
        write_reports(board, folder)
    finally:
        lock.release()
    return True


def read_config(folder: Path) -> dict[str, Any]:
    """Return the composed configuration of a run.

    Raises:
        ConfigError: the folder is not a run folder; the message names the missing files.
    """
    config = folder / CONFIG
    missing = [name for name in (CONFIG, "run.json") if not (folder / name).is_file()]
    if missing == ["run.json"] and (folder / "trials").is_dir():
        missing = []  # earlier versions wrote no run.json
    if missing:
        inside = sorted(path.parent for path in folder.glob("*/run.json"))
        hint = f"; did you mean {inside[-1]}?" if inside else "; a sweep prints the path of its folder at the end"
        raise ConfigError([f"{folder}: is not a run folder: it has no {' and no '.join(missing)}{hint}"])
    raw = yaml.safe_load(config.read_text(encoding="utf-8"))
    return raw if isinstance(raw, dict) else {}


def _domains(raw: Mapping[str, Any]) -> dict[str, Domain]:
    space = (raw.get("sweep") or {}).get("space") or {}
    return {key: parse(key, text) for key, text in leaves(space)}


def _results(folder: Path) -> list[TrialResult]:
    """Return the usable results; log a warning for each of the others."""
    run = read_note(folder, "run").get("id") or run_of_results(folder)
    results = []
    for file, found in read_results(folder, str(run)):
        if isinstance(found, TrialResult):
            results.append(found)
        else:
            log.warning("%s is ignored: %s", file, found)
    return results
