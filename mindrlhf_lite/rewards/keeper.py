"""The process between the run and a worker: when either ends, it ends all that verifiers have started, in whatever
session and from whatever ancestor. As their subreaper it is the parent of every process that has lost its own (Linux).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import time
from typing import Any, NoReturn

from mindrlhf_lite.job.lifelines import die_with_parent
from mindrlhf_lite.job.processes import Process

_PR_SET_CHILD_SUBREAPER = 36
_POLL_S, _PAUSE_S, _ROUNDS = 1.0, 0.005, 200


class _Asked(BaseException):
    """SIGTERM: the run wants the worker to end."""


def go_on_in_a_child() -> None:
    """Returns in a child of this process, which stays as its keeper and ends as it ends, or with the run."""
    run, keeper = os.pidfd_open(os.getppid()), os.getpid()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGTERM, _ask)
    worker = os.fork()
    if worker:
        _keep(worker, run)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.close(run)
    die_with_parent()  # whatever a verifier is doing
    if os.getppid() != keeper:
        os._exit(1)


def _ask(number: int, frame: Any) -> NoReturn:
    raise _Asked


def _keep(worker: int, run: int) -> NoReturn:
    for stream in range(2):  # the pool waits for their end
        os.close(stream)
    status: int | None = None
    try:
        handle, is_over = os.pidfd_open(worker), False
        while status is None and not is_over:
            ready, _, _ = select.select([run, handle], [], [], _POLL_S)
            is_over, status = run in ready, _reaped().get(worker)
    except _Asked:
        pass
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _end_descendants()
    code = 0 if status is None else os.waitstatus_to_exitcode(status)
    if code < 0:
        if -code not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def _reaped() -> dict[int, int]:
    """{child: its status} of those that have ended."""
    found: dict[int, int] = {}
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            found[ended[0]] = ended[1]
    return found


def _end_descendants() -> None:
    """A child that is killed leaves its own to this process."""
    own = Process.find(os.getpid())
    for _ in range(_ROUNDS):
        _reaped()
        children = own.children() if own is not None else []
        if not children:
            return
        for child in children:
            child.end()
        time.sleep(_PAUSE_S)
