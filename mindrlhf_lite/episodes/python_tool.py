"""The tool `python`: runs a program in a process of its own, with limits of time, memory, files and, where the system
lets it, without a network.

It keeps mistakes of a policy from the run, and is no sandbox: a program reads what the run may read, and where it keeps
its network it reaches what the run reaches.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import sys
import tempfile

from mindrlhf_lite.job.lifelines import die_with_parent

CPU_S, WALL_S = 5, 10.0
_MEMORY_BYTES, _FILE_BYTES, _OPEN_FILES, _MOST_CHARACTERS = 1 << 30, 1 << 20, 64, 4000
_NEW_USER, _NEW_NET = 0x10000000, 0x40000000  # of unshare(2)


def python(code: str) -> str:
    """Runs a Python program and returns what it prints. Every program starts anew.

    Args:
        code: the program.
    """
    with tempfile.TemporaryDirectory(prefix="program-") as folder, open(os.path.join(folder, "out"), "w+b") as output:
        process = subprocess.Popen(
            [sys.executable, "-s", "-u", "-c", code],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "HOME": folder},
            start_new_session=True,
            preexec_fn=_limit,
        )
        try:
            code_of_end = process.wait(WALL_S)
        except subprocess.TimeoutExpired:
            code_of_end = None
        finally:
            with contextlib.suppress(OSError):  # and what it has started
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        text = output.read(4 * _MOST_CHARACTERS).decode(errors="replace")
    return _shortened(text.rstrip("\n")) + _ending(code_of_end)


def _shortened(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}\n[cut]"


def _ending(code: int | None) -> str:
    """What the policy is told of a program that did not end well; tracebacks say more themselves."""
    if code is None:
        return f"\n[ended after {WALL_S:g} s]"
    return f"\n[ended by signal {-code}]" if code < 0 else ""


def _limit() -> None:
    """In the new process, before the program."""
    die_with_parent()
    for kind, limit in (
        (resource.RLIMIT_CPU, CPU_S),
        (resource.RLIMIT_AS, _MEMORY_BYTES),
        (resource.RLIMIT_FSIZE, _FILE_BYTES),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        with contextlib.suppress(ValueError, OSError):  # a lower limit stands already
            resource.setrlimit(kind, (limit, limit))
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).unshare(_NEW_USER | _NEW_NET)
