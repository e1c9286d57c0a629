"""Lengths of attention stay on the host: nothing is copied to the device and back for them, nor waited for."""

import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from helpers import run

from mindrlhf_lite.ascend.stand_ins import environment

WORKER = Path(__file__).with_name("host_numbers_worker.py")

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc and binutils for CANN's stand-ins")


def test_lengths_are_read_where_they_are(tmp_path):
    variables = environment(0, 1)
    variables["PYTHONPATH"] += os.pathsep + os.environ.get("PYTHONPATH", "")
    # the log of MindSpore's runtime names what copies a number to another device
    result = run([sys.executable, WORKER], cwd=tmp_path, timeout=300, MS_SUBMODULE_LOG_v="{ME:0,DEVICE:1}", **variables)
    assert result.returncode == 0, result.stderr[-3000:]
    kernels = re.findall(r"kernel opname:(\w+), kernel type:(\w+)", result.stderr)
    for name in ("FlashAttentionScore", "FlashAttentionScoreGrad", "PromptFlashAttention"):
        assert (name, "opapi_kernel") in kernels
    spawned = re.findall(r"ACTOR was spawned,a=([\w/-]+)", result.stderr)
    assert any("RealTupleGetItem" in actor for actor in spawned)
    assert [actor for actor in spawned if actor.startswith("copy_from")] == []
