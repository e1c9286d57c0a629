"""Another program at the ports between ranks: who merely connects changes nothing, and what it writes is no code."""

import contextlib
import os
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from distributed.jobs import VERIFIERS, end_processes_of, ranks_of
from distributed.small_runs import MAIN, arguments
from helpers import ROOT, clean_environment

pytestmark = pytest.mark.full
LISTENS = "0A"


def listening_ports(pid):
    """TCP ports on which a process listens."""
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            inodes.add(os.readlink(entry).removeprefix("socket:[").removesuffix("]"))
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == LISTENS and row[9] in inodes]


@pytest.fixture
def started(data, tmp_path):
    """(a run of two ranks after its second step, its mark)."""
    mark, output = uuid.uuid4().hex, tmp_path / "run"
    settings = ("--rl_config.max_steps=30", "--rl_config.eval_interval=0")
    launcher = ["-m", "mindrlhf_lite.job", "--ranks=2", f"--log_dir={tmp_path}/log", str(MAIN)]
    command = [sys.executable, *launcher, *map(str, arguments(data, output, *settings))]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    environment = clean_environment(PYTHONPATH=f"{ROOT}:{VERIFIERS}", TEST_JOB=mark)
    with subprocess.Popen(command, cwd=ROOT, **pipes, env=environment) as process:
        try:
            deadline = time.monotonic() + 300
            while not (output / "completions/step_000002.jsonl").is_file():
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.05)
            yield process, mark
        finally:
            end_processes_of(mark)


def test_three_hundred_idle_connections_to_every_port(started):
    process, mark = started
    ports = [port for pid in ranks_of(mark).values() for port in listening_ports(pid)]
    assert ports
    with contextlib.ExitStack() as open_ones:
        for port in ports:
            for _ in range(300):
                open_ones.enter_context(socket.create_connection(("127.0.0.1", port)))
        text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text[-3000:]


def test_zeros_in_a_port_end_the_run_in_words(started):
    """MindSpore's rings take what anybody writes; it waits for 30 s, and then the run ends."""
    process, mark = started
    for pid in ranks_of(mark).values():
        for port in listening_ports(pid):
            with socket.create_connection(("127.0.0.1", port)) as stranger, contextlib.suppress(OSError):
                stranger.sendall(bytes(65536))
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 1 and "Traceback" not in text, text[-3000:]
    assert "another program that writes to the ports between ranks: docs/security.md" in text, text[-3000:]
