"""What machines do to a run of two ranks: full and slow disks, a rank out of memory, one that stands still, a clock
that jumps. Either the run ends in words and can be resumed, or it ends as if nothing had been.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from distributed.jobs import VERIFIERS, end_processes_of
from distributed.small_runs import MAIN, arguments, metrics, without_times
from helpers import ROOT, clean_environment
from reliability.shim import built, faults

from mindrlhf_lite.checkpoint.store import CheckpointStore
from mindrlhf_lite.job.processes import Process

pytestmark = pytest.mark.full
SETTINGS = (
    "--rl_config.max_steps=6",
    "--rl_config.save_ckpt_interval=1",
    "--generate_config.parallel_config.model_parallel=2",
)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return built(tmp_path_factory.mktemp("shim"))


class Run:
    """Two ranks under the launcher."""

    def __init__(self, data, output, *extra, **environment):
        self.output, self.mark = output, uuid.uuid4().hex
        launcher = [sys.executable, "-m", "mindrlhf_lite.job", "--ranks=2", f"--log_dir={output}_log", str(MAIN)]
        command = [*launcher, *map(str, arguments(data, output, *SETTINGS, *extra))]
        environment = clean_environment(PYTHONPATH=f"{ROOT}:{VERIFIERS}", TEST_JOB=self.mark, **environment)
        both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        self.process = subprocess.Popen(command, cwd=ROOT, **both, env=environment)

    def wait_for_step(self, step):
        deadline = time.monotonic() + 200
        while not (self.output / f"checkpoints/step_{step}").is_dir():
            assert self.process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)

    def wait_for_rank(self, number):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(AssertionError, OSError):  # not there yet
                return self.rank(number)
            time.sleep(0.05)
        raise AssertionError(f"rank {number} did not start")

    def rank(self, number):
        wanted = {"TEST_JOB": self.mark, "RANK_ID": str(number), "MS_ROLE": "MS_WORKER"}.items()
        for entry in Path("/proc").iterdir():
            found = Process.find(int(entry.name)) if entry.name.isdigit() else None
            if found is None or not wanted <= found.environment().items() or os.getpgid(found.pid) != found.pid:
                continue
            if "main.py" in Path(f"/proc/{found.pid}/cmdline").read_text():
                return found.pid
        raise AssertionError(f"rank {number} is not there")

    def end(self, timeout=300):
        """(exit code, console)."""
        try:
            text, _ = self.process.communicate(timeout=timeout)
        finally:
            end_processes_of(self.mark)
        assert "Traceback" not in text, text[-3000:]
        return self.process.returncode, text


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    output = tmp_path_factory.mktemp("whole") / "run"
    code, text = Run(data, output).end()
    assert code == 0, text
    return output


def assert_equal_runs(ours, theirs):
    assert without_times(metrics(ours)) == without_times(metrics(theirs))
    assert (ours / "hf/model.safetensors").read_bytes() == (theirs / "hf/model.safetensors").read_bytes()


@pytest.mark.parametrize("at", [3, 11, 19, 27, 35, 60, 90])
def test_a_full_disk_anywhere(data, tmp_path, library, whole, at):
    """From one write on nothing more can be written: an error in words, and the run goes on when there is room."""
    output = tmp_path / "run"
    code, text = Run(data, output, **faults(library, "/run/", "enospc", at, "open,write,mkdir,fsync", rank=0)).end()
    assert code == 1 and "No space left" in text, text[-3000:]
    store = CheckpointStore(output / "checkpoints", 3)
    assert not [problem for step in store.steps() if (problem := store.problem(step))]
    code, text = Run(data, output, "--resume_training=true").end()
    assert code == 0, text[-3000:]
    assert_equal_runs(output, whole)


def test_a_slow_disk(data, tmp_path, library, whole):
    code, text = Run(data, tmp_path / "run", **faults(library, "/run/", "slow", 1, "write,fsync,rename", ms=100)).end()
    assert code == 0, text[-3000:]
    assert_equal_runs(tmp_path / "run", whole)


def test_a_rank_that_stands_still_for_a_minute(data, tmp_path, whole):
    """In a collective inside a graph MindSpore waits 30 s, no longer; anywhere else the others wait."""
    run = Run(data, tmp_path / "run")
    run.wait_for_step(2)
    stopped = run.rank(1)
    os.kill(stopped, signal.SIGSTOP)
    time.sleep(60)
    with contextlib.suppress(ProcessLookupError):
        os.kill(stopped, signal.SIGCONT)
    code, text = run.end()
    if code:
        assert code == 1 and "another rank did not come to a collective for 30 s" in text, text[-3000:]
        code, text = Run(data, tmp_path / "run", "--resume_training=true").end()
    assert code == 0, text[-3000:]
    assert_equal_runs(tmp_path / "run", whole)


@pytest.mark.parametrize("seconds", [86400, -86400])
def test_a_clock_that_jumps(data, tmp_path, library, whole, seconds):
    clock = {"LD_PRELOAD": str(library), "CLOCK_JUMP": str(seconds), "CLOCK_AFTER": "15"}
    code, text = Run(data, tmp_path / "run", **clock).end()
    assert code == 0, text[-3000:]
    assert_equal_runs(tmp_path / "run", whole)


def limited_group():
    """A control group whose processes may have no more memory, of either version; a test without one skips."""
    for root, limit in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
        group = Path(root) / f"mindrlhf_lite_{uuid.uuid4().hex}"
        try:
            group.mkdir()
            (group / limit).write_text("300000000")
            return group
        except OSError:
            if group.is_dir():
                group.rmdir()
    pytest.skip("needs root and a memory controller of control groups")


def test_a_rank_out_of_memory_is_named(data, tmp_path, whole):
    """Its control group has no room for what it allocates next: the system kills it."""
    group, run = limited_group(), Run(data, tmp_path / "run")
    try:
        (group / "cgroup.procs").write_text(str(run.wait_for_rank(1)))
        code, text = run.end()
    finally:
        end_processes_of(run.mark)
        time.sleep(0.5)
        group.rmdir()
    assert code == 1 and re.search(r"rank 1 was killed by signal 9 \(SIGKILL\).*, as the system does when", text), text
    code, text = Run(data, tmp_path / "run", "--resume_training=true").end()
    assert code == 0, text[-3000:]
    assert_equal_runs(tmp_path / "run", whole)
