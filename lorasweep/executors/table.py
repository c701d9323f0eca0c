"""The executors by the name that `executor=` takes: one file each, and a line here."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from lorasweep.core.messages import WorkerSettings
from lorasweep.devices.devices import Device
from lorasweep.executors import fork_server
from lorasweep.executors.base import Executor

if TYPE_CHECKING:
    Make = Callable[[WorkerSettings, Device], Executor]


def _inline(settings: WorkerSettings, device: Device) -> Executor:
    from lorasweep.executors.inline import InlineExecutor  # imports torch, which takes a second

    return InlineExecutor(settings, device)


def _local(settings: WorkerSettings, device: Device) -> Executor:
    from lorasweep.executors.local import LocalExecutor

    return LocalExecutor(settings, device)


EXECUTORS: "dict[str, Make]" = {"inline": _inline, "local": _local}


def make_executor(name: str, settings: WorkerSettings, device: Device, num_workers: int) -> Callable[[], Executor]:
    """Return a function that starts the worker of a device.

    `auto` runs workers in their own processes, which can die without ending the sweep; but a lone CPU worker in this
    process if its process would have to import everything first.
    """
    if name == "auto":
        is_lone = not device.is_gpu and num_workers == 1
        name = "inline" if is_lone and not fork_server.is_usable() else "local"
    return partial(EXECUTORS[name], settings, device)
