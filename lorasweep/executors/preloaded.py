"""Import what a worker needs. The fork server imports this module."""

import gc

gc.disable()  # imported objects stay, and scanning them repeatedly takes a second

import lorasweep.worker.worker  # noqa: E402, F401

gc.freeze()  # a later collection would copy the memory that forked workers share
