"""Predicted memory is close to the measured peak."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.processes]
ROOT = Path(__file__).resolve().parent.parent.parent
GOAL = 0.15  # of the measured peak
# In 16 bits oneDNN uses more memory on CPUs with bf16 instructions: one peak was 406 MB with AVX2, 478 MB
# with AVX512-BF16 and 577 MB with AMX, on one machine. In a sweep the warm-up pass corrects predictions by that.
ENVIRONMENT = {"ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "1000"}


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
@pytest.mark.parametrize("case", ["16 8 fp32 qv 8", "8 8 bf16 all-linear 16"])
def test_the_prediction_is_within_the_goal(case: str) -> None:
    command = [sys.executable, "-m", "tests.memory.measured", *case.split()]
    environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert abs(found["predicted"] / found["measured"] - 1) < GOAL, found
