"""Ctrl-C and SIGTERM end a command at once, with one line and an exit code that says so.

Python's own way is too late (its handlers run when the main thread comes back from a graph) and too little: MindSpore
replaces the handler of SIGINT by one that sends the process a SIGTERM. So both signals are blocked in every thread,
before any is started, and one thread waits for them. Only multiprocessing unblocks the signals again, in the thread
that uses it: there they are raised, so that its workers are ended in order. Ending in the middle is safe: files are
written under another name and renamed. A signal that was ignored by whoever started the command stays ignored.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any, NoReturn

from mindrlhf_lite.commands.resume_hint import ResumeHint


class Ended(BaseException):
    """A signal came while worker processes are to be ended first; its number is the argument."""


_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_hint: ResumeHint | None = None
_saves = False  # SIGTERM asks the run to save and stop
_asked = threading.Event()
STOP_FILE_VARIABLE = "MINDRLHF_STOP_FILE"  # a file that `mindrlhf_lite.job` makes when it is to stop its ranks so


def end_on_signals() -> None:
    """Call it before the first import that starts threads (numpy's does)."""
    ours = [number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    for number in ours:
        signal.signal(number, _handle)
    signal.pthread_sigmask(signal.SIG_BLOCK, ours)
    threading.Thread(target=_wait_for, args=(ours,), name="signals", daemon=True).start()


def _wait_for(numbers: list[signal.Signals]) -> None:
    while True:
        take(signal.sigwaitinfo(numbers).si_signo)


def take(number: int) -> None:
    """Ends the process, or notes that it is to save and stop; asked twice, it ends."""
    if number == signal.SIGTERM and _saves and not _asked.is_set():
        _asked.set()
        print("\nSIGTERM: the run stops after this step, with a checkpoint", file=sys.stderr, flush=True)
    else:
        end(number)


def save_on_sigterm() -> None:
    """From now on the first SIGTERM asks the run to save and stop (`asks_to_stop`) instead of ending it."""
    global _saves
    _saves = True
    if path := os.environ.get(STOP_FILE_VARIABLE):
        Path(path).with_suffix(".saves").touch()  # the launcher may ask, and wait


def asks_to_stop() -> bool:
    """Whether this process, or its launcher, was asked to save and stop."""
    path = os.environ.get(STOP_FILE_VARIABLE)
    return _asked.is_set() or (path is not None and Path(path).exists())


def say_when_ended(hint: ResumeHint) -> None:
    """How to go on, from now on."""
    global _hint
    _hint = hint


def listen_to_signals_again() -> None:
    """In a child process, which inherits what is blocked."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def _handle(number: int, frame: Any) -> None:
    if multiprocessing.active_children():
        raise Ended(number)
    take(number)


def end(number: int) -> NoReturn:
    """Ends the process at once, as the signal asks for, with one line."""
    announce(number)
    os._exit(128 + number)


def announce(number: int) -> None:
    name = "interrupted" if number == signal.SIGINT else "stopped by SIGTERM"
    print(f"\n{name}" + (f"; {_hint.text()}" if _hint else ""), file=sys.stderr, flush=True)
    sys.stdout.flush()
