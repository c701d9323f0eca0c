"""`python -m lorasweep`."""

import gc
import sys

from lorasweep.cli import main

gc.disable()  # until a sweep starts: collecting the imported objects, which all stay, takes a second
code = main()
gc.freeze()  # skips them in the last collection
sys.exit(code)
