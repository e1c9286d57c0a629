"""Processes of a job that end with those that they belong to, however these end and whether or not a guard is there.

The guard ends a job in order and says why. This is what is left where the guard itself is dead, or has come too late.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

from mindrlhf_lite.commands.own_python import module_command
from mindrlhf_lite.commands.signals import listen_to_signals_again
from mindrlhf_lite.job.processes import Process

_PR_SET_PDEATHSIG = 1
_POLL_S, _GRACE_S = 0.5, 4.0  # the guard comes first
_STARTING_S = 60.0  # msrun starts its ranks within this time


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """The system sends this process the signal when the one that started it ends (Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


def waiting_msrun() -> Process | None:
    """The msrun that started this process and waits for its ranks (--join=True); None: nobody does."""
    parent = Process.find(os.getppid())
    words = " ".join(parent.command_line()) if parent is not None else ""
    return parent if re.search(r"--worker_num\b", words) and re.search(r"--join[= ]True\b", words) else None


def end_rank_after_msrun() -> None:
    """In a rank: it ends some seconds after msrun did."""
    msrun = waiting_msrun()
    if msrun is not None:
        threading.Thread(target=_end_rank_after, args=(msrun,), name="lifeline", daemon=True).start()


def _end_rank_after(msrun: Process) -> None:
    _wait_until(lambda: not msrun.is_alive())
    os._exit(1)


def end_scheduler_after_job() -> None:
    """In the scheduler, which would wait for ranks that are dead: it ends with msrun, and some seconds after the last
    rank of this host. MindSpore's scheduler holds Python's lock while it waits, so another process looks, and does not
    end before msrun.
    """
    msrun = waiting_msrun()
    if msrun is None:
        return
    die_with_parent()
    if os.getppid() != msrun.pid:
        os._exit(1)
    command = [*module_command("mindrlhf_lite.job.lifelines"), str(os.getpid()), str(msrun.pid)]
    subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)


def watch_family(scheduler: Process, msrun: Process) -> None:
    """Some seconds after the last rank that this msrun started, or msrun itself, has ended: ends the scheduler, and
    what follows the ranks' logs if nobody else is left to do so.
    """
    tails: set[Process] = set()
    deadline = time.monotonic() + _STARTING_S

    def has_ranks() -> bool:
        nonlocal deadline
        children = msrun.children()
        tails.update(child for child in children if child.name == "tail")
        if any(child.is_alive() for child in children if child != scheduler and child.name != "tail"):
            deadline = 0.0
        elif time.monotonic() > deadline:
            return False
        return msrun.is_alive()

    _wait_until(lambda: not has_ranks())
    scheduler.end()
    _wait_until(lambda: not msrun.is_alive())  # it has a scheduler no longer to wait for
    for tail in tails:
        tail.end()


def _wait_until(is_over: Callable[[], bool]) -> None:
    """Returns once something has been over for a while."""
    since: float | None = None
    while since is None or time.monotonic() - since < _GRACE_S:
        since = (since or time.monotonic()) if is_over() else None
        time.sleep(_POLL_S)


def main() -> None:
    listen_to_signals_again()
    scheduler, msrun = (Process.find(int(word)) for word in sys.argv[1:3])
    if scheduler is not None and msrun is not None and os.getppid() == scheduler.pid:
        watch_family(scheduler, msrun)


if __name__ == "__main__":
    main()
