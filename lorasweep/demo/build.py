"""Make the demo: `python -m lorasweep.demo.build` writes its data and trains its tokenizer and base from scratch.

Takes some minutes on two cores. The result is committed; use this script to reproduce or change it.
"""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lorasweep.demo import DEMO_DIR
from lorasweep.demo.files import write_data


def main() -> None:
    options = _options()
    write_data(options.out / "data")
    if not options.data_only:
        _train(options.out / "base")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m lorasweep.demo.build", description="Make lorasweep's demo.")
    parser.add_argument("--data-only", action="store_true", help="write the data only, not the base")
    parser.add_argument("--out", type=Path, default=DEMO_DIR, help="folder to write to (default: the package's own)")
    return parser.parse_args()


def _train(folder: Path) -> None:
    from transformers.utils import logging  # takes seconds to import, and --data-only does not need it

    from lorasweep.demo.base import Recipe, train_base

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # lorasweep shows its own progress
    recipe = Recipe()
    with _shown(recipe.num_steps) as on_step:
        train_base(folder, recipe, on_step)


@contextmanager
def _shown(num_steps: int) -> Iterator[Callable[[int, float], None]]:
    columns = ("training the base", BarColumn(), MofNCompleteColumn(), TextColumn("loss {task.fields[loss]:.3f}"))
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn()) as progress:
        task = progress.add_task("base", total=num_steps, loss=float("nan"))
        yield lambda step, loss: progress.update(task, completed=step + 1, loss=loss)


if __name__ == "__main__":
    main()
