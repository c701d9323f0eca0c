"""Rooms import themselves and rooms above them, and each heavy library has its owners."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "lorasweep"

# A room imports itself and rooms above it in this list. Modules outside of rooms follow.
ROOMS = ["core", "data", "models", "adapters", "memory", "worker", "devices", "executors", "config", "study",
         "tracking", "planning", "driver", "report", "display", "testing", "run", "api", "cli", "__main__"]  # fmt: skip
APART = ("__init__", "demo")  # the command line, and the script that makes the embedded base
OWNERS = {
    "optuna": {"config.space", "study.study", "study.storage", "study.samplers", "study.pruners"},
    "mlflow": {"tracking.mlflow", "tracking.mlflow_store"},
    "hydra": {"config.grammar", "config.compose", "cli", "api"},
    "omegaconf": {"config.compose"},
    "bitsandbytes": {"adapters.train_state"},
    "peft": {"adapters.peft_format", "models.peft_model"},
    "datasets": {"data.source"},
    "filelock": {"driver.ledger", "report.from_folder"},
    "rich": {"display.display", "cli", "report.text"},
    "psutil": {"devices.cpu"},
    "pynvml": {"devices.nvml"},
}
# Help, reports and messages on configuration mistakes do not import these.
LIGHT_ROOMS = ["cli", "core", "config", "memory", "devices", "report"]
HEAVY = ["torch", "transformers", "peft", "mlflow", "hydra", "omegaconf", "optuna", "datasets", "bitsandbytes"]


def modules() -> dict[str, Path]:
    """Return the modules of the package by name."""
    files = sorted(PACKAGE.rglob("*.py"))
    names = {".".join(f.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): f for f in files}
    return {name: file for name, file in names.items() if room_of(name) not in APART}


def room_of(name: str) -> str:
    return name.split(".")[0]


def imports(file: Path) -> Iterator[str]:
    """Yield the dotted names that a file imports, except those only for type checkers."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for_types = {id(x) for node in ast.walk(tree) if _is_for_types(node) for x in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{file}: relative imports hide the room"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def own_imports(file: Path) -> set[str]:
    """Return the modules of this package that a file imports."""
    names = (name.removeprefix("lorasweep.") for name in imports(file) if name.startswith("lorasweep."))
    return {next((n for n in (name, name.rpartition(".")[0]) if n in MODULES), name) for name in names}


def libraries(file: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(file)}


MODULES = modules()
EVALUATION = sorted((ROOT / "evaluation").rglob("*.py"))


def test_every_module_is_in_a_room() -> None:
    assert {room_of(name) for name in MODULES} == set(ROOMS)


@pytest.mark.parametrize("room", [room for room in ROOMS if (PACKAGE / room).is_dir()])
def test_a_room_has_a_docstring(room: str) -> None:
    assert ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text()))


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_its_own_room_and_rooms_above_it(name: str) -> None:
    place = ROOMS.index(room_of(name))
    found = {own for own in own_imports(MODULES[name]) if room_of(own) in ROOMS}
    assert not {own for own in found if ROOMS.index(room_of(own)) > place}


def test_no_modules_import_each_other() -> None:
    graph = {name: own_imports(file) - {name} for name, file in MODULES.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError


@pytest.mark.parametrize("library", OWNERS)
def test_a_library_is_imported_by_its_owners_alone(library: str) -> None:
    assert {name for name, file in MODULES.items() if library in libraries(file)} == OWNERS[library]


@pytest.mark.processes
@pytest.mark.parametrize("room", LIGHT_ROOMS)
def test_a_light_room_imports_no_heavy_library(room: str) -> None:
    names = ", ".join(f"lorasweep.{name}" for name in MODULES if room_of(name) == room)
    script = f"import sys, {names}; print(*set(sys.modules) & set({HEAVY}))"
    assert subprocess.check_output([sys.executable, "-c", script], cwd=ROOT, text=True).split() == []


@pytest.mark.parametrize("name", [n for n in MODULES if ROOMS.index(room_of(n)) <= ROOMS.index("worker")])
def test_a_worker_knows_neither_study_nor_tracker(name: str) -> None:
    allowed = {"optuna"} if name == "config.space" else set()
    assert libraries(MODULES[name]) & {"optuna", "mlflow"} <= allowed


@pytest.mark.parametrize("file", EVALUATION, ids=lambda file: file.stem)
def test_evaluation_does_not_import_lorasweep(file: Path) -> None:
    assert "lorasweep" not in libraries(file)


@pytest.mark.parametrize("file", [*MODULES.values(), *EVALUATION], ids=lambda file: file.stem)
def test_no_file_is_longer_than_three_hundred_lines(file: Path) -> None:
    # Maximum lines per file (style guide). Raise this only with a reason.
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 300
