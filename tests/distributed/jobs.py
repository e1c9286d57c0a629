"""Real msrun jobs for tests: their own port and log folder, and nothing left behind."""

import os
import signal
import subprocess
import uuid
from pathlib import Path

from helpers import clean_environment

from mindrlhf_lite.job.ports import free_port

VERIFIERS = str(Path(__file__).parent)


def start_msrun(num_ranks, log_dir, script, *arguments, timeout=480, cwd=None):
    """(exit code, console text, all workers' logs) of a job; whatever it leaves behind is ended."""
    command = [
        "msrun",
        f"--worker_num={num_ranks}",
        f"--local_worker_num={num_ranks}",
        "--master_addr=127.0.0.1",
        f"--master_port={free_port()}",
        "--join=True",
        f"--log_dir={log_dir}",
        str(script),
        *map(str, arguments),
    ]
    job = uuid.uuid4().hex
    environment = clean_environment(PYTHONPATH=VERIFIERS, TEST_JOB=job)
    process = subprocess.Popen(
        command,
        cwd=cwd or Path(log_dir).parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )
    try:
        text, _ = process.communicate(timeout=timeout)
    finally:
        end_processes_of(job)
    logs = "".join(path.read_text(errors="replace") for path in sorted(Path(log_dir).glob("worker_*.log")))
    return process.returncode, text, logs


def end_processes_of(job):
    """msrun puts every rank in a session of its own; all inherit the job's mark in their environment, by which those
    that are left are ended.
    """
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and f"TEST_JOB={job}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                os.kill(int(entry.name), signal.SIGKILL)
        except OSError:  # it ended meanwhile
            continue
