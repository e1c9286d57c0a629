"""The process in which verifiers run, so that one that hangs can be killed: `python -m mindrlhf_lite.rewards.worker`.

Protocol, pickled over stdin and stdout: first the verifier's name, answered by None or an error text; then
(completion, gold) pairs, each answered by a Score and by what went wrong, None if nothing did.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import pickle
import signal
import sys
from typing import Any

from mindrlhf_lite.job.signals import listen_to_signals_again
from mindrlhf_lite.rewards.verifiers import Verifier, find_verifier
from mindrlhf_lite.types import Outcome, Score

_PR_SET_PDEATHSIG = 1


def as_score(value: Any) -> Score:
    """A Score as it is; a finite number as a score that is correct when positive; anything else is an error."""
    number = float(value.value if isinstance(value, Score) else value)
    if not math.isfinite(number):
        raise ValueError(f"the verifier returned {value!r}")
    if isinstance(value, Score):
        return value
    return Score(number, Outcome.CORRECT if number > 0 else Outcome.WRONG)


def score_one(verifier: Verifier, completion: str, gold: str) -> tuple[Score, str | None]:
    """The verifier's score of one completion, and its error if it raised one: any counts as Outcome.ERROR with value 0."""
    try:
        (value,) = verifier.function([completion], [gold])
        return as_score(value), None
    except Exception as error:  # a user's verifier, or a parser on hostile text
        return Score(0.0, Outcome.ERROR), f"{type(error).__name__}: {error}"


def end_with_parent() -> None:
    """The system ends this process when the one that started it ends, however that happens and whatever a verifier is doing."""
    with contextlib.suppress(OSError, AttributeError):  # Linux only
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    end_with_parent()
    listen_to_signals_again()
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a verifier prints must not mix with the replies
    requests = sys.stdin.buffer
    name, path = pickle.load(requests)
    sys.path[:0] = path
    try:
        verifier, problem = find_verifier(name), None
    except ValueError as error:
        verifier, problem = None, str(error)
    pickle.dump(problem, replies)
    replies.flush()
    while verifier is not None:
        try:
            completion, gold = pickle.load(requests)
        except (EOFError, pickle.UnpicklingError):  # the run has ended, perhaps in the middle of a request
            return
        reply = score_one(verifier, completion, gold)
        pickle.dump(reply, replies)
        replies.flush()


if __name__ == "__main__":
    main()
