"""`python -m lorasweep`, and the command `lorasweep`."""

import gc
import sys

from lorasweep.cli import main
from lorasweep.core.logs import set_environment
from lorasweep.executors.fork_server import start_for


def run() -> None:
    """Run the command line and exit with its code."""
    gc.disable()  # until a sweep starts: collecting the imported objects, which all stay, takes a second
    set_environment()  # workers are forked with it
    start_for(sys.argv[1:])
    code = main()
    gc.freeze()  # skips them in the last collection
    sys.exit(code)


if __name__ == "__main__":
    run()
