"""`python -m lorasweep`, and the command `lorasweep`."""

import gc
import sys

from lorasweep.cli import main


def run() -> None:
    """Run the command line and exit with its code."""
    gc.disable()  # until a sweep starts: collecting the imported objects, which all stay, takes a second
    code = main()
    gc.freeze()  # skips them in the last collection
    sys.exit(code)


if __name__ == "__main__":
    run()
