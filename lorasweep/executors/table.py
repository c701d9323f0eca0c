"""The executors by the name that `executor=` takes: one file each, and a line here."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from lorasweep.core.messages import WorkerSettings
from lorasweep.devices.devices import Device
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

    `auto` runs a lone CPU worker in this process and others in their own, which can die without ending the sweep.
    """
    if name == "auto":
        name = "inline" if not device.is_gpu and num_workers == 1 else "local"
    return partial(EXECUTORS[name], settings, device)
