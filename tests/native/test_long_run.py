"""What many steps leave behind: no memory that grows, no thread that spins."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mindrlhf_lite.native.library import library

WORKER = Path(__file__).with_name("long_run.py")


@pytest.mark.full
@pytest.mark.skipif(not library().path, reason=f"no native kernels: {library().why_not}")
def test_300_steps_leave_nothing_behind():
    roots = (WORKER.parents[2], WORKER.parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, roots))}
    done = subprocess.run([sys.executable, WORKER], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["grown_mib"] < 16 and found["idle_processor_seconds"] < 0.1, found
