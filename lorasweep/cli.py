"""The command line: commands that use one Hydra configuration.

Heavy libraries are imported only when needed, so that help and mistakes are printed at once.
"""

import difflib
import os
import select
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorasweep import __version__
from lorasweep.config.folders import data_dir
from lorasweep.core.errors import AlreadyRunning, ConfigError, LoraSweepError, is_disk_full, unusable_path
from lorasweep.core.files import redact, redact_values
from lorasweep.core.logs import quiet

if TYPE_CHECKING:
    from lorasweep.report.leaderboard import Leaderboard

VERBS = {
    "run": "train and rank every candidate (the default)",
    "plan": "check everything and print what would run, without training",
    "report": "print and rewrite the leaderboard of a run folder: report FOLDER",
    "ui": "open MLflow on the runs of a run folder, by default the latest: ui [FOLDER] [--port N]",
}
EXIT_FAILED, EXIT_RUNNING, EXIT_PREEMPTED, EXIT_CONFIG, EXIT_INTERRUPTED = 1, 3, 75, 78, 130
REMEDY = "make it writable, or set output_dir, tracking.uri or the variable LORASWEEP_CACHE to a writable place"
EXIT_UNREAD = 141  # as if SIGPIPE had ended the program
# The first matching class counts; errors of Hydra count as configuration errors.
EXITS = {ConfigError: EXIT_CONFIG, AlreadyRunning: EXIT_RUNNING, LoraSweepError: EXIT_FAILED}
STDOUT = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code; end without a message if the reader of the output has closed it."""
    try:
        code = _dispatch(arguments)
        print(end="", flush=True)
    except BrokenPipeError:
        if not _is_unread():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), STDOUT)  # Python flushes again at exit
        return EXIT_UNREAD
    return code


def _dispatch(arguments: Sequence[str] | None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    verb = given.pop(0) if given and given[0] in VERBS else "run"
    if {"-h", "--help"} & set(given) or given[:1] == ["help"]:
        print(usage())
        return 0
    if given and given[0] == "--version":
        print(f"lorasweep {__version__}")
        return 0
    if given[:1] in (["--shell-completion"], ["-sc"]):
        return _complete(given[1:])
    if verb in OF_FOLDERS:
        return _exit_code(lambda: OF_FOLDERS[verb](given))
    if given and "=" not in given[0] and not given[0].startswith(("-", "+", "~")):
        close = difflib.get_close_matches(given[0], VERBS, n=1)
        meant = f"; did you mean {close[0]!r}?" if close else ""
        print(
            f"lorasweep: {given[0]!r} is not a command; known: {', '.join(VERBS)}{meant}; see --help", file=sys.stderr
        )
        return EXIT_CONFIG
    return _command(verb, given)


def _complete(arguments: list[str]) -> int:
    """Print Hydra's shell completion: `install=bash`, `uninstall=bash`, `query=bash`."""
    from lorasweep.config.compose import shell_completion

    try:
        shell_completion(arguments, data_dir("conf"), data_dir("sweeps"))
    except ValueError as error:
        print(f"lorasweep: --shell-completion: {error}; write for example install=bash", file=sys.stderr)
        return EXIT_CONFIG
    return 0


def _is_unread() -> bool:
    """Return whether standard output is closed; the broken pipe may also belong to a server connection."""
    poll = select.poll()
    poll.register(STDOUT, 0)  # errors are always reported
    return bool(poll.poll(0))


def usage() -> str:
    """Return the help text with all sweeps and groups."""
    from lorasweep.config.compose import groups, questions

    verbs = "\n".join(f"  {name:12s} {what}" for name, what in VERBS.items())
    sweeps = "\n".join(f"  +sweep={name:15s} {question}" for name, question in questions(data_dir("sweeps")).items())
    choices = "\n".join(f"  {group}={'|'.join(names)}" for group, names in groups(data_dir("conf")).items())
    return USAGE.format(verbs=verbs, sweeps=sweeps, groups=choices)


USAGE = """lorasweep: which LoRA configuration should I use, on my data, on my hardware?

usage: python -m lorasweep [command] [+sweep=NAME] [setting=value ...]

commands:
{verbs}

sweeps:
{sweeps}

groups (choose one of each):
{groups}

settings (Hydra overrides; those of model, lora, train and data that do not change the scored rows can be swept):
  lora.r=16                                    set one
  lora.r=4,8,16                                search it
  train.learning_rate='tag(log,interval(1e-4,1e-2))'
  data.train=my.jsonl data.format=alpaca       your own data
  model.id=path/or/hub-id                      your own base
  --config-dir DIR                             your own sweeps: DIR/NAME.yaml
  --cfg job                                    print the composed configuration
  --shell-completion install=bash              as in Hydra: eval "$(lorasweep -sc install=bash)", or zsh, fish
"""


FIRST = "reading the settings, the base and the data"  # printed before the imports, which take seconds


def _command(verb: str, overrides: list[str]) -> int:
    if not {"--cfg", "-c"} & {word.split("=")[0] for word in overrides}:
        print(FIRST, flush=True)
    return _exit_code(lambda: _composed(verb, overrides))


def _composed(verb: str, overrides: list[str]) -> int:
    from lorasweep.api import compose

    raw, text = compose(overrides)
    if raw is None:
        print(redact(text))
        return 0
    quiet()
    return _plan(raw) if verb == "plan" else _run(raw, text)


def _exit_code(command: Callable[[], int]) -> int:
    """Return a command's exit code; print errors that the user can fix as one sentence."""
    from hydra.errors import HydraException

    try:
        return command()
    except (HydraException, LoraSweepError) as error:
        print(f"lorasweep: {redact(str(error))}", file=sys.stderr)
        return next((code for kind, code in EXITS.items() if isinstance(error, kind)), EXIT_CONFIG)
    except KeyboardInterrupt:
        print("lorasweep: stopped; run the same command to continue", file=sys.stderr)
        return EXIT_INTERRUPTED
    except Exception as error:  # each store raises its own class
        if path := unusable_path(error):
            print(f"lorasweep: {redact(path)}; {REMEDY}", file=sys.stderr)
            return EXIT_CONFIG
        if not is_disk_full(error):
            raise
        print(
            f"lorasweep: the disk is full ({error}); free space and run the same command to continue", file=sys.stderr
        )
        return EXIT_FAILED


def _plan(raw: dict[str, Any]) -> int:
    from lorasweep.planning.describe import plan_text
    from lorasweep.planning.make import make_plan

    print(redact_values(plan_text(make_plan(raw))))
    return 0


def _run(raw: dict[str, Any], text: str) -> int:
    from lorasweep.api import run

    plan, outcome = run(raw, text)
    _show(outcome.board, outcome.folder, _where(plan.config.tracking.uri, outcome.page) if outcome.page else [])
    if outcome.halted:
        print(f"lorasweep: sweep halted: {outcome.halted}", file=sys.stderr)
        return EXIT_FAILED
    if not outcome.is_finished:
        which = "trials are" if outcome.num_saved > 1 else "trial is"
        saved = f"; {outcome.num_saved} unfinished {which} saved" if outcome.num_saved else ""
        print(f"stopped before the end{saved}; run the same command to continue", file=sys.stderr)
        return EXIT_PREEMPTED if outcome.is_preempted else EXIT_INTERRUPTED
    return 0 if outcome.board.ranked else EXIT_FAILED


def _report(given: list[str]) -> int:
    from lorasweep.report.from_folder import load_leaderboard, update_reports

    if len(given) != 1:
        raise ConfigError(["report: takes one run folder, for example report runs/NAME"])
    quiet()
    folder = Path(given[0])
    board = load_leaderboard(folder)
    is_written = update_reports(board, folder)
    note = "a sweep is running in this folder: these are its results so far; its files are unchanged"
    _show(board, folder, [] if is_written else [note])
    return 0


def _ui(given: list[str]) -> int:
    from lorasweep.driver.ledger import read_note
    from lorasweep.report.from_folder import TRACKED, read_config
    from lorasweep.tracking.ui import show, store_of

    port, given = _port(given)
    if len(given) > 1:
        raise ConfigError(["ui: takes one run folder at most, for example ui runs/NAME --port 5001"])
    folder = Path(given[0]) if given else _latest(Path("runs"))
    return show(store_of(read_config(folder), folder), str(read_note(folder, TRACKED).get("page", "")), port)


def _port(given: list[str]) -> tuple[int | None, list[str]]:
    """Return the value of `--port` and the other words."""
    words = [part for word in given for part in (word.split("=", 1) if word.startswith("--port=") else [word])]
    if "--port" not in words:
        return None, words
    place = words.index("--port")
    value = words[place + 1] if place + 1 < len(words) else ""
    if not value.isdecimal() or not 0 < int(value) < 65536:
        raise ConfigError([f"--port: {value!r} is not a port; write for example --port 5001"])
    return int(value), [*words[:place], *words[place + 2 :]]


def _latest(folder: Path) -> Path:
    """Return the run folder in `folder` that was started or continued last."""
    found = sorted(folder.glob("*/config.yaml"), key=lambda file: file.stat().st_mtime)
    if not found:
        raise ConfigError([f"ui: there is no run folder in {folder.absolute()}; name one, as in ui runs/NAME"])
    return found[-1].parent


OF_FOLDERS: dict[str, Callable[[list[str]], int]] = {"report": _report, "ui": _ui}


def _show(board: "Leaderboard", folder: Path, more: Sequence[str]) -> None:
    """Print the table, then the paths of the reports, then the advice."""
    from rich.console import Console

    from lorasweep.report.text import advice, rows_that_fit, to_text

    console, last = Console(), advice(board)
    places = [f"full leaderboard: {folder}/leaderboard.html (also .md .csv .json)", *more]
    num_lines = len(console.render_lines(last)) + len(places) + SPACES
    console.print(to_text(board, console.width, rows_that_fit(board, console, num_lines)))
    print("", *places, "", sep="\n")  # not by rich, which would wrap addresses
    console.print(last)


SPACES = 4  # blank lines and the prompt


def _where(uri: str | None, page: str) -> list[str]:
    """Return lines on how to open the tracker's page, with its address on a separate line."""
    if uri and uri.startswith("http"):
        return ["every run:", f"{redact(uri).rstrip('/')}/{page}"]
    store = f" --backend-store-uri {redact(uri)}" if uri else ""
    return [f"every run, after mlflow ui{store}:", f"http://127.0.0.1:5000/{page}"]
