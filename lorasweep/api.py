"""lorasweep from Python: plan a sweep, run it, read its results. The command line plans and runs with the same code.

Heavy libraries are imported only when needed, so that mistakes are reported at once.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorasweep.config.folders import data_dir
from lorasweep.config.overrides import Overrides, override_words
from lorasweep.core.errors import ConfigError, LoraSweepError
from lorasweep.core.files import redact_values
from lorasweep.core.logs import quiet_libraries, set_environment
from lorasweep.data.formats import FORMATS
from lorasweep.report.leaderboard import Leaderboard as Board
from lorasweep.report.leaderboard import Row

if TYPE_CHECKING:
    from lorasweep.planning.plan import Plan
    from lorasweep.run import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaderboard(Board):
    """The ranked rows of a sweep, best first, and the folder of its files. A notebook shows it as a table."""

    folder: Path

    @property
    def best(self) -> Row:
        """The row ranked first.

        Raises:
            LoraSweepError: no trial was completed.
        """
        if self.winner is None:
            raise LoraSweepError(f"{self.folder}: no trial was completed; {self.recommendation}")
        return self.winner

    def to_frame(self) -> Any:
        """Return a pandas DataFrame with the columns and values of leaderboard.csv; missing ones are NaN or None."""
        import pandas

        from lorasweep.report.machine import to_table

        names, lines = to_table(self)
        kept = [{key: value for key, value in line.items() if value != ""} for line in lines]
        return pandas.DataFrame(kept, columns=names)

    def _repr_html_(self) -> str:
        from lorasweep.report.notebook import to_notebook

        return to_notebook(self)


def plan(overrides: Overrides = (), *, sweep: str | None = None, data: Any = None, format: str | None = None) -> "Plan":
    """Check everything and return what a sweep would run, without training.

    Args:
        overrides: settings by dotted name, `{"lora.r": [4, 8]}`, or words as on the command line, `["lora.r=4,8"]`.
        sweep: the name of a sweep that ships with the package, such as `rank_alpha`.
        data: a pandas DataFrame, a list of dicts, a `datasets.Dataset`, a path or a hub id; or a mapping from `train`,
            `validation` and `test` to these, such as a `datasets.DatasetDict`. By default the embedded demo.
        format: the layout of the rows, such as `alpaca`; by default found from the names of the columns.

    Raises:
        ConfigError: lists all mistakes in settings and files.
        DataError: the data cannot be used.
    """
    from lorasweep.planning.make import make_plan

    raw, _ = _composed(overrides, sweep, data, format)
    return make_plan(raw)


def sweep(
    overrides: Overrides = (), *, sweep: str | None = None, data: Any = None, format: str | None = None
) -> Leaderboard:
    """Run or continue a sweep and return its leaderboard. The arguments are those of `plan`.

    The same settings and data lead to the same run folder, and finished trials are not trained again. Ctrl-C saves all
    trials at the end of their time slice and then raises `KeyboardInterrupt`.

    Raises:
        ConfigError: lists all mistakes in settings and files.
        DataError: the data cannot be used.
        AlreadyRunning: another process runs this sweep.
        LoraSweepError: the sweep was halted; the message gives the reason.
        KeyboardInterrupt: the sweep was interrupted.
    """
    with _workers_without_main():
        _, outcome = run(*_composed(overrides, sweep, data, format))
    results = f"lorasweep.load_results({str(outcome.folder)!r}) returns the results so far"
    if outcome.halted:
        raise LoraSweepError(f"sweep halted: {outcome.halted}; {results}")
    if not outcome.is_finished:
        raise KeyboardInterrupt(f"stopped before the end; the same call continues the sweep, and {results}")
    return _leaderboard(outcome.board, outcome.folder)


def load_results(folder: str | PathLike[str]) -> Leaderboard:
    """Return the leaderboard of a run folder, even while a sweep runs in it. Nothing is written.

    Raises:
        ConfigError: the folder is not a run folder.
    """
    from lorasweep.report.from_folder import load_leaderboard

    return _leaderboard(load_leaderboard(Path(folder)), Path(folder))


def run(raw: Mapping[str, Any], text: str) -> "tuple[Plan, Outcome]":
    """Plan and run a composed configuration; `text` is the same configuration as YAML."""
    from lorasweep.planning.describe import headline
    from lorasweep.planning.make import make_plan

    quiet_libraries()
    plan = make_plan(raw)
    print(redact_values(headline(plan)), "starting the workers, the study and the tracker", sep="\n", flush=True)
    from lorasweep.run import run_sweep

    return plan, run_sweep(plan, text)


def compose(words: Sequence[str]) -> tuple[dict[str, Any] | None, str]:
    """Call `config.compose` with the groups and sweeps that ship with the package."""
    set_environment()
    from lorasweep.config.compose import compose

    return compose(words, data_dir("conf"), data_dir("sweeps"))


def _composed(overrides: Overrides, sweep: str | None, data: Any, format: str | None) -> tuple[dict[str, Any], str]:
    from hydra.errors import HydraException

    words = override_words(overrides)
    named = [f"+sweep={sweep}"] if sweep else []
    try:
        raw, text = compose([*named, *_data_words(words, data, format), *words])
    except HydraException as error:
        raise ConfigError([str(error).splitlines()[0]]) from error
    if raw is None:
        raise ConfigError(["--cfg: works only on the command line; use lorasweep.plan(...).raw"])
    return raw, text


def _data_words(words: Sequence[str], data: Any, format: str | None) -> list[str]:
    """Return the overrides that name the data and its format."""
    keys = {word.partition("=")[0].lstrip("+") for word in words}
    found = [_format_word(format)] if format else []
    if data is None:
        return found
    from lorasweep.data.in_memory import sources_of
    from lorasweep.data.layouts import format_of
    from lorasweep.data.source import read_rows

    sources = sources_of(data)
    if twice := sorted(keys & {f"data.{split}" for split in sources}):
        raise ConfigError([f"{twice[0]}: is also set by data=...; remove one of them"])
    if not found and not keys & {"data", "data.format"}:
        found = [f"data.format={format_of(list(read_rows(sources['train']).rows[0].values), 'data')}"]
    return [*found, *override_words({"data": sources})]


def _format_word(format: str) -> str:
    """Return the override of a format, or of a group of `conf/data`, such as `chat`."""
    return f"data.format={format}" if format in FORMATS else f"data={format}"


def _leaderboard(board: Board, folder: Path) -> Leaderboard:
    return Leaderboard(**{field.name: getattr(board, field.name) for field in fields(board)}, folder=folder)


@contextmanager
def _workers_without_main() -> Iterator[None]:
    """Prevent worker processes from importing the caller's script, as spawned processes do by default.

    A script without `if __name__ == "__main__"` would start its sweep again in each worker.
    """
    main: Any = sys.modules["__main__"]
    spec, file = main.__spec__, vars(main).pop("__file__", None)
    main.__spec__ = None
    try:
        yield
    finally:
        main.__spec__ = spec
        if file is not None:
            main.__file__ = file
