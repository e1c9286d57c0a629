"""The process in which verifiers run, so that one that hangs can be killed.

Protocol, frames (see `as_frame`) over stdin and stdout: first an ORDER, answered by None or an error text. Then lists
of tasks, each answered by an ANSWER as soon as it is done.

Before the first task every verifier scores a made-up completion, on which no clock runs: so what it imports or loads at
its first call takes nothing from a completion's time, and one that cannot score at all is known before training.
"""

from __future__ import annotations

import contextlib
import os
import resource
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from mindrlhf_lite.commands.signals import listen_to_signals_again
from mindrlhf_lite.files.text_file import let_console_show_anything, printable
from mindrlhf_lite.files.wire import from_bytes, to_bytes
from mindrlhf_lite.rewards.keeper import go_on_in_a_child
from mindrlhf_lite.rewards.verifiers import Verifier, find_verifier
from mindrlhf_lite.types import CompletionView, Score

_TRIED = 4  # made-up completions of one question
_MEMORY_BYTES = 4 << 30  # that a built-in verifier may take for a score, besides what its process has
LENGTH = struct.Struct("<I")


@dataclass(frozen=True)
class Task:
    """One call of a verifier: of one completion, or of all of a question.

    Example: Task((7,), 0, (CompletionView("18"),), ("18",))
    """

    numbers: tuple[int, ...]  # the scores' places
    verifier: int  # its index
    completions: tuple[CompletionView, ...]
    golds: tuple[str, ...]


Trial = tuple[CompletionView, str]
ORDER = tuple[list[str], Trial | None]  # verifiers' names
ANSWER = tuple[tuple[int, ...], list[Score] | None, str | None]  # numbers, scores, what went wrong
_FORMULA: Trial = (
    CompletionView("\\boxed{\\frac{2}{\\sqrt{2}}}"),
    "\\sqrt{2}",
)  # equal, but not as text: loads math-verify


def as_frame(value: Any, kind: Any) -> bytes:
    """A value's bytes behind their number."""
    data = to_bytes(value, kind)
    return LENGTH.pack(len(data)) + data


def read_frame(read: Callable[[int], bytes], kind: Any) -> Any:
    """The next value. Raises EOFError at the end of the stream."""
    head = read(LENGTH.size)
    if len(head) < LENGTH.size:
        raise EOFError
    (length,) = LENGTH.unpack(head)
    data = read(length)
    if len(data) < length:
        raise EOFError
    return from_bytes(data, kind)


def score_task(verifier: Verifier, task: Task) -> tuple[list[Score] | None, str | None]:
    """The verifier's scores, or its error."""
    ours = os.getpid()
    try:
        result: tuple[list[Score] | None, str | None] = verifier.scores(task.completions, task.golds), None
    except BaseException as error:  # a user's verifier, which may even exit, or a parser on hostile text
        result = None, f"{type(error).__name__}: {printable(str(error)[:500])}"
    if os.getpid() != ours:  # a child that the verifier forked, and that came back here: the answer is its parent's
        os._exit(0)
    return result


@contextlib.contextmanager
def _limited_memory() -> Iterator[None]:
    """What a completion writes must not take the host's memory: a MemoryError of this process comes first."""
    before, most = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    limits = [used + _MEMORY_BYTES, *(limit for limit in (before, most) if limit != resource.RLIM_INFINITY)]
    resource.setrlimit(resource.RLIMIT_AS, (min(limits), most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (before, most))


def _try_out(verifiers: list[Verifier], trial: Trial | None) -> str | None:
    """Lets every verifier score something. Returns which of a user's own failed, and how."""
    for verifier in verifiers:
        chosen = trial if verifier.is_own else _FORMULA
        if chosen is None:
            continue
        completion, gold = chosen
        views: tuple[CompletionView, ...] = (completion,)
        if verifier.takes_group:  # of one it may not be able to say anything
            views = (completion, replace(completion, text="", num_tokens=1)) * (_TRIED // 2)
        places = tuple(range(len(views)))
        _, problem = score_task(verifier, Task(places, 0, views, (gold,) * len(views)))
        if problem is not None and verifier.is_own:
            return (
                f"verifier {verifier.name!r} fails on a made-up completion, {completion.text[:200]!r} with the "
                f"gold answer {gold[:80]!r}: {problem}; a verifier returns a score for any text"
            )
    return None


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    names, trial = read_frame(requests.read, ORDER)
    verifiers: list[Verifier] = []
    try:
        verifiers = [find_verifier(name) for name in names]
        problem = _try_out(verifiers, trial)
    except ValueError as error:
        problem = str(error)
    replies.write(as_frame(problem, str | None))
    replies.flush()
    while verifiers:
        for task in read_frame(requests.read, list[Task]):
            verifier = verifiers[task.verifier]
            with contextlib.nullcontext() if verifier.is_own else _limited_memory():
                result = score_task(verifier, task)
            replies.write(as_frame((task.numbers, *result), ANSWER))
            replies.flush()


def main() -> None:
    listen_to_signals_again()
    go_on_in_a_child()
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # what a verifier starts must not read the requests
    os.dup2(2, 1)  # nor what it prints mix with the replies
    let_console_show_anything()
    with contextlib.suppress(EOFError, BrokenPipeError):  # the run has ended, perhaps in the middle of a request
        serve(requests, replies)


if __name__ == "__main__":
    main()
