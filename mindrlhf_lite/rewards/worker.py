"""The process in which verifiers run, so that one that hangs can be killed: `python -m mindrlhf_lite.rewards.worker`.

Protocol, frames (see `write_frame`) over stdin and stdout: first (verifiers' names, folders to import from), answered
by None or an error text. Then lists of tasks (number, verifier's index, completion view, gold), each task answered by
(number, Score or None, what went wrong or None) as soon as it is done.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import select
import signal
import struct
import sys
from collections.abc import Callable
from typing import Any, BinaryIO

from mindrlhf_lite.job.signals import listen_to_signals_again
from mindrlhf_lite.rewards.verifiers import Verifier, find_verifier
from mindrlhf_lite.text_file import let_console_show_anything
from mindrlhf_lite.types import CompletionView, Score

_PR_SET_PDEATHSIG = 1
LENGTH = struct.Struct("<I")

Task = tuple[int, int, CompletionView, str]


def as_frame(value: Any) -> bytes:
    """A pickled value behind its length."""
    data = pickle.dumps(value)
    return LENGTH.pack(len(data)) + data


def read_frame(read: Callable[[int], bytes]) -> Any:
    """The next value. Raises EOFError at the end of the stream."""
    head = read(LENGTH.size)
    if len(head) < LENGTH.size:
        raise EOFError
    (length,) = LENGTH.unpack(head)
    data = read(length)
    if len(data) < length:
        raise EOFError
    return pickle.loads(data)


def score_one(verifier: Verifier, completion: CompletionView, gold: str) -> tuple[Score | None, str | None]:
    """The verifier's score of one completion, or its error."""
    try:
        return verifier.score(completion, gold), None
    except BaseException as error:  # a user's verifier, which may even exit, or a parser on hostile text
        return None, f"{type(error).__name__}: {str(error)[:500]}"


def _end_with_parent() -> None:
    """The system ends this process when the one that started it ends, however that happens and whatever a verifier is
    doing.
    """
    with contextlib.suppress(OSError, AttributeError):  # Linux only
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _end_group_with_this_process() -> None:
    """Starts a process that waits for this one's end, and then ends what verifiers have started. It is nobody's child:
    a verifier may wait for all of its own.
    """
    ours = os.getpid()
    if os.getpgrp() != ours:  # only what is in a group of its own is ours to end
        return
    if between := os.fork():
        os.waitpid(between, 0)
        return
    handle = os.pidfd_open(ours)
    if os.fork():
        os._exit(0)
    for stream in range(2):  # the pool waits for their end
        os.close(stream)
    select.select([handle], [], [])
    os.killpg(0, signal.SIGKILL)


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    names, path = read_frame(requests.read)
    sys.path[:0] = path
    try:
        verifiers, problem = [find_verifier(name) for name in names], None
    except ValueError as error:
        verifiers, problem = [], str(error)
    replies.write(as_frame(problem))
    replies.flush()
    while verifiers:
        for number, index, completion, gold in read_frame(requests.read):
            replies.write(as_frame((number, *score_one(verifiers[index], completion, gold))))
            replies.flush()


def main() -> None:
    _end_with_parent()
    _end_group_with_this_process()
    listen_to_signals_again()
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # what a verifier starts must not read the requests
    os.dup2(2, 1)  # nor what it prints mix with the replies
    let_console_show_anything()
    with contextlib.suppress(EOFError, BrokenPipeError):  # the run has ended, perhaps in the middle of a request
        serve(requests, replies)


if __name__ == "__main__":
    main()
