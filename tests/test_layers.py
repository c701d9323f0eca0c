"""Imports run down the layers, and each heavy library has its owners."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EVALUATION = sorted((ROOT / "evaluation").rglob("*.py"))

# A room imports itself and rooms above it. Beside each room: modules that have not moved in yet.
ROOMS = {
    "core": (),
    "config": (
        "catalogue",
        "config",
        "limits",
        "grammar",
        "space",
        "shared",
        "fitting",
    ),
    "data": (),
    "models": (
        "base_info",
        "tokenizer",
        "targets",
        "model",
        "base",
        "norms",
        "varlen",
        "twin",
        "usage",
        "paths",
        "nats",
        "weight_files",
    ),
    "adapters": (
        "slot",
        "groups",
        "stacking",
        "layout",
        "dropout",
        "adapted",
        "products",
        "bank",
        "learner",
        "train",
        "pace",
        "adapters",
        "self_test",
        "tested",
    ),
    "memory": (),
    "worker": (
        "worker",
        "trials",
        "live",
        "loaded",
        "score",
        "outcome",
        "probes",
        "baseline",
        "checkpoint",
        "meter",
    ),
    "devices": (
        "devices",
        "cores",
        "nvml",
        "visible",
    ),
    "executors": (),
    "study": (
        "study",
        "pruning",
        "rules",
        "judge",
        "selection",
    ),
    "tracking": (
        "tracker",
        "tracking",
        "mlflow_fields",
        "mlflow_view",
        "courier",
        "naming",
    ),
    "planning": (
        "plan",
        "facts",
        "comparable",
        "warmup",
        "stores",
        "expected",
        "outline",
    ),
    "driver": (
        "ledger",
        "driver",
        "supply",
        "placement",
        "lineup",
        "forecast",
        "seat",
        "record",
        "outbox",
        "retries",
        "streak",
        "room",
    ),
    "report": (),
    "display": (
        "standing",
        "display",
    ),
    "run": (),
    "cli": (),
    "__main__": (),
}
PLACE = {name: place for place, (room, flat) in enumerate(ROOMS.items()) for name in (room, *flat)}

OWNERS = {
    "optuna": {"config.space", "study.study", "study.pruners"},
    "mlflow": {"tracking.mlflow"},
    "hydra": {"config.grammar", "config.compose", "cli"},
    "omegaconf": {"config.compose"},
    "bitsandbytes": {"models.load", "adapters.train_state"},
    "peft": {"adapters.peft_format", "adapters.bank", "methods"},
    "datasets": {"data.source"},
    "filelock": {"driver.ledger", "tracking.mlflow"},
    "rich": {"display.display", "cli", "report.text"},
    "psutil": {"devices.cpu"},
    "pynvml": {"devices.nvml"},
}
# Owners that answer `--help` or check a configuration: what they own is imported where it is used.
LAZY = (
    "cli",
    "config.compose",
    "config.grammar",
    "config.space",
    "config.build",
    "config.constraints",
    "core.spec",
    "core.errors",
    "core.files",
    "core.sizes",
    "core.logs",
    "models.targets",
    "memory",
    "devices.cpu",
    "devices.nvml",
    "devices.cuda_visible",
    "devices.devices",
)
HEAVY = ("torch", "transformers", "peft", "mlflow", "hydra", "omegaconf", "optuna", "datasets", "bitsandbytes")


def modules() -> dict[str, Path]:
    """Return every module of the package but the demo's builder, by its name below `lorasweep`."""
    files = sorted((ROOT / "lorasweep").rglob("*.py"))
    names = {
        ".".join(f.relative_to(ROOT / "lorasweep").with_suffix("").parts).removesuffix(".__init__"): f for f in files
    }
    return {n: f for n, f in names.items() if n != "__init__" and not n.startswith("demo")}


MODULES = modules()


def place_of(name: str) -> int:
    """Return how far down a module lies; one without a layer lies at the top, so that it may import nothing."""
    return PLACE.get(name.split(".")[0], 0)


def imports(file: Path, *, only_at_top: bool = False) -> Iterator[str]:
    """Yield the dotted names that a file imports; those for type checkers alone are no imports."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    nodes = list(tree.body) if only_at_top else list(ast.walk(tree))
    typing_only = {id(x) for node in ast.walk(tree) if _is_for_types(node) for x in ast.walk(node)}
    for node in nodes:
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative imports hide the layer"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def layer(dotted: str) -> str | None:
    """Return the layer's name of an import of our own, None for any other."""
    head, *rest = dotted.split(".")
    return rest[0] if head == "lorasweep" and rest and not rest[0].startswith("__version") else None


def heads(file: Path, *, only_at_top: bool = False) -> set[str]:
    return {name.split(".")[0] for name in imports(file, only_at_top=only_at_top)}


def test_every_module_has_its_layer() -> None:
    assert {name.split(".")[0] for name in MODULES} <= set(PLACE)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_from_above(name: str) -> None:
    below = {own for i in imports(MODULES[name]) if (own := layer(i)) and place_of(own) > place_of(name)}
    assert not below, f"{name} imports {', '.join(sorted(below))} from below"


@pytest.mark.parametrize("library", OWNERS)
def test_a_library_is_imported_by_its_owners_alone(library: str) -> None:
    users = {name for name, file in MODULES.items() if library in heads(file)}
    assert users <= OWNERS[library]


@pytest.mark.parametrize("name", LAZY)
def test_what_answers_at_once_imports_nothing_heavy_at_its_top(name: str) -> None:
    assert not heads(MODULES[name], only_at_top=True) & set(HEAVY)


@pytest.mark.parametrize(
    "name",
    [
        "memory",
        "driver.ledger",
        "core.result",
        "study.rules",
        "config.build",
        "config.space",
    ],
)
def test_arithmetic_and_words_know_no_torch(name: str) -> None:
    assert "torch" not in heads(MODULES[name])


@pytest.mark.parametrize("name", [n for n in MODULES if place_of(n) <= PLACE["worker"]])
def test_the_engine_knows_neither_study_nor_tracker(name: str) -> None:
    owners = OWNERS["optuna"] | OWNERS["mlflow"]
    assert name in owners or not heads(MODULES[name]) & {"optuna", "mlflow"}


@pytest.mark.parametrize("file", EVALUATION, ids=lambda file: file.stem)
def test_evaluation_knows_nothing_of_us(file: Path) -> None:
    assert "lorasweep" not in heads(file)


@pytest.mark.parametrize("file", [*MODULES.values(), *EVALUATION], ids=lambda file: file.stem)
def test_no_file_is_longer_than_three_hundred_lines(file: Path) -> None:
    # Style: where a file passes 300 lines, stop and think. Raise this only after thinking.
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 300
