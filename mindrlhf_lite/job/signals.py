"""Ctrl-C and SIGTERM end a command at once, with one line and an exit code that says so.

Python's own way is too late (its handlers run when the main thread comes back from a graph) and too little: MindSpore replaces the handler of SIGINT
by one that sends the process a SIGTERM. So both signals are blocked in every thread, before any is started, and one thread waits for
them. Ending in the middle is safe: files are written under another name and renamed.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from mindrlhf_lite.job.resume import ResumeHint

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_hint: ResumeHint | None = None


def end_on_signals() -> None:
    """Call it before the first import that starts threads (numpy's does)."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    threading.Thread(target=_wait, name="signals", daemon=True).start()


def say_when_ended(hint: ResumeHint) -> None:
    """How to go on, from now on."""
    global _hint
    _hint = hint


def listen_to_signals_again() -> None:
    """In a child process, which inherits what is blocked."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def _wait() -> None:
    number = signal.sigwaitinfo(_SIGNALS).si_signo
    name = "interrupted" if number == signal.SIGINT else "stopped by SIGTERM"
    print(f"\n{name}" + (f"; {_hint.text()}" if _hint else ""), file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(128 + number)
