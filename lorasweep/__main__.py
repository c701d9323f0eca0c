"""`python -m lorasweep`."""

import gc
import sys

from lorasweep.cli import main

gc.disable()  # until a sweep begins: what the imports make stays, and to look through it again and again takes a second
code = main()
gc.freeze()  # nor is anything to be found in it at the end
sys.exit(code)
