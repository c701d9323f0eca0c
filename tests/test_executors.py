"""Every executor passes the same suite."""

import pytest

from lorasweep.core.messages import WorkerSettings
from lorasweep.devices.devices import find_devices
from lorasweep.executors.base import Executor
from lorasweep.executors.table import EXECUTORS
from lorasweep.testing import ExecutorTestCase, MakeExecutor

MARKS = {"local": (pytest.mark.slow, pytest.mark.processes)}


def maker(name: str) -> MakeExecutor:
    [cpu] = find_devices("cpu")

    def make(settings: WorkerSettings) -> Executor:
        return EXECUTORS[name](settings, cpu)

    return make


@pytest.mark.parametrize("name", [pytest.param(name, marks=MARKS.get(name, ())) for name in EXECUTORS])
class TestExecutors(ExecutorTestCase):
    @pytest.fixture
    def make(self, name: str) -> MakeExecutor:
        return maker(name)

    @pytest.fixture
    def reference(self) -> MakeExecutor:
        return maker("inline")
