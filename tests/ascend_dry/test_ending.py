"""Ending a command that compiles for Ascend ends the process that does it."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from distributed.small_runs import MAIN, QUICKSTART_MODEL
from helpers import ROOT

from mindrlhf_lite.job.processes import Process

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc and binutils for CANN's stand-ins")


def compiling(pid):
    """The process that compiles, once there is one that has come so far."""
    children = Process.find(pid).children()
    return next((child for child in children if "mindrlhf_lite.ascend.compiled_step" in child.command_line()), None)


def wait_for(condition, seconds):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.1)
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_it_ends_with_the_command(tmp_path, number):
    words = ["--config", ROOT / "examples/quickstart/grpo_config.yaml", "--model_config", QUICKSTART_MODEL]
    words += ["--actor_config.load=", "--rl_config.eval_interval=0", "--dry_run", "--compile"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, MAIN, *map(str, words)],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as command:
        child = wait_for(lambda: compiling(command.pid), 120)
        said = command.stderr.readline()  # it says how far it has come
        assert "--compile: rank 0, reshard" in said, said
        command.send_signal(number)
        command.communicate(timeout=20)
        wait_for(lambda: not child.is_alive(), 10)
