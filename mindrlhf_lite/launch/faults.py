"""How a rank's error reaches the console: one line with its rank and what to do, and an exit code; the stack trace of a
fault of the program goes to a file.
"""

from __future__ import annotations

import os
import re
import sys
import time
import traceback
from pathlib import Path
from typing import NoReturn

from mindrlhf_lite.commands.resume_hint import ResumeHint
from mindrlhf_lite.commands.tool import FAILED, USER_ERROR
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.files.text_file import printable_lines, write_text
from mindrlhf_lite.job.guarded_rank import has_guard, withdraw_hint
from mindrlhf_lite.job.limits import why_no_process
from mindrlhf_lite.observe.health import Unhealthy
from mindrlhf_lite.observe.host_monitor import MemoryIsShort
from mindrlhf_lite.parallel.signing import ForgedMessage
from mindrlhf_lite.trainer.soundness import RuinedModel

FIRST_RANK_S = 30.0  # the first rank has said by then what all have found, and all are ended
# how MindSpore says on CPU, outside and inside of a graph, that a collective was given up
_GAVE_UP = re.compile(
    r"(?:AllReduce|AllGather|Broadcast|Ring \w+).*failed|Launch kernel failed:.*/(?:All|Reduce|Broad)\w+-"
)


def end_with(error: Exception, output: Path, rank: int, hint: ResumeHint) -> NoReturn:
    """Ends the process, under which the error is being handled. Args: output: the run's folder."""
    code = USER_ERROR if isinstance(error, UserError) else FAILED
    _stop(f"error: rank {rank}: {_told(error, output, rank)}{_how_to_go_on(error, rank, hint)}", code)


def _told(error: Exception, output: Path, rank: int) -> str:
    if isinstance(error, UserError | MemoryIsShort):
        return str(error)
    if isinstance(error, RuinedModel | Unhealthy):
        if rank:  # all ranks have found it: the first one says so, and the others are ended after it
            time.sleep(FIRST_RANK_S)
        return str(error)
    if refused := why_no_process(error):
        return refused
    if isinstance(error, FloatingPointError | OSError | ForgedMessage):
        _keep_trace(output, rank)
        return str(error)
    return _fault(error, output, rank)


def _how_to_go_on(error: Exception, rank: int, hint: ResumeHint) -> str:
    if isinstance(error, UserError | MemoryIsShort):
        return ""
    if isinstance(error, RuinedModel):  # the same command would end there again
        withdraw_hint()
        return f"; {newest}" if (newest := hint.newest()) else ""
    is_alone = rank == 0 and not has_guard()  # else the guard says how to go on
    return f"; {hint.text()}" if is_alone else ""


def _fault(error: Exception, output: Path, rank: int) -> str:
    """A line about a fault of the program; its stack trace goes to a file."""
    path, first = _keep_trace(output, rank), _first_line(error)
    if path is None:
        print(traceback.format_exc(), file=sys.stderr, flush=True)
        return f"a fault of the program: {type(error).__name__}: {first}"
    if _GAVE_UP.match(first):
        return (
            f"another rank did not come to a collective for 30 s, or its message was lost (a broken network, another "
            f"program that writes to the ports between ranks: docs/security.md); MindSpore waits no longer on CPU "
            f"({first}); its stack trace is in {path}"
        )
    return f"a fault of the program: {type(error).__name__}: {first}; its stack trace is in {path}"


def _keep_trace(output: Path, rank: int) -> Path | None:
    """Writes the stack trace of the error under way into a file; None where that is impossible."""
    path = output / f"error_rank_{rank}.txt"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, traceback.format_exc())
    except OSError:
        return None
    return path


def _first_line(error: Exception) -> str:
    """The first line of its text that says something; MindSpore's begin with ruled headings."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line[:300] for line in lines if line.strip("-") and not line.startswith("- ")), "")


def _stop(message: str, code: int) -> NoReturn:
    print(flush=True)  # ends the progress bar's line
    print(printable_lines(message), file=sys.stderr, flush=True)
    sys.stdout.flush()
    # peers may be waiting in a collective: a normal interpreter exit would join MindSpore's threads and wait with them
    os._exit(code)
