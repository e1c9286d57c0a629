"""Real msrun jobs for tests: their own port and log folder, and nothing left behind."""

import contextlib
import os
import signal
import subprocess
import uuid
from pathlib import Path

from helpers import clean_environment, run_python

from mindrlhf_lite.job.ports import free_port
from mindrlhf_lite.job.processes import Process

VERIFIERS = str(Path(__file__).parent)


def _logs(log_dir):
    return "".join(path.read_text(errors="replace") for path in sorted(Path(log_dir).glob("worker_*.log")))


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
    return process.returncode, text, _logs(log_dir)


def run_ranks(num_ranks, log_dir, script, *arguments, timeout=480, cwd=None):
    """start_msrun for a worker of tests: its ranks are forks of a process that has their imports, in its group."""
    words = (num_ranks, log_dir, free_port(), script, *arguments)
    where = {"cwd": cwd or Path(log_dir).parent, "timeout": timeout}
    done = run_python(Path(__file__).with_name("forked_ranks.py"), *words, **where, PYTHONPATH=VERIFIERS)
    return done.returncode, done.stdout + done.stderr, _logs(log_dir)


def _processes_of(job):
    """(process, its environment's words); all of a job inherit its mark in their environment."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it ended meanwhile
                words = (entry / "environ").read_bytes().split(b"\0")
                if f"TEST_JOB={job}".encode() in words:
                    yield int(entry.name), words


def living_processes_of(job):
    """Numbers and names of those that have not ended."""
    found = [Process.find(pid) for pid, _ in _processes_of(job)]
    return [f"{process.pid} {process.name}" for process in found if process is not None and process.is_alive()]


def end_processes_of(job):
    """msrun puts every rank in a session of its own; those that are left are ended."""
    for pid, _ in _processes_of(job):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def ranks_of(job):
    """{rank: process} of those that live; what a rank has started has its environment too, and another command."""
    found = {}
    for pid, words in _processes_of(job):
        command = Path(f"/proc/{pid}/cmdline").read_bytes() if b"MS_ROLE=MS_WORKER" in words else b""
        if b"main.py" in command:
            found[next(int(word[8:]) for word in words if word.startswith(b"RANK_ID="))] = pid
    return found
