"""What a rank does about its host's guard: starts it, and leaves beside its log what it is to say about going on."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from pathlib import Path

from mindrlhf_lite.commands.own_python import module_command
from mindrlhf_lite.commands.resume_hint import ResumeHint
from mindrlhf_lite.files.text_file import write_text

GUARDED_VARIABLE = "MINDRLHF_JOB_GUARDED"  # the ranks need start no guard


def guard_command(msrun: int, log: Path) -> list[str]:
    """What to run, in a session of its own. Args: msrun: its process; log: where the first rank of this host writes."""
    return [*module_command("mindrlhf_lite.job.guard"), str(msrun), str(log)]


def start_guard() -> None:
    """In a rank: starts the guard of this host's ranks, if it is the first of them and none has been started."""
    if not _is_first_of_host():
        return
    forget_hint(_own_log())
    if GUARDED_VARIABLE not in os.environ:
        command = guard_command(os.getppid(), _own_log())
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)


def forget_hint(log: Path) -> None:
    """Before a guard starts: what an earlier job with this log has left."""
    hint_file(log).unlink(missing_ok=True)


def tell_guard(hint: ResumeHint) -> None:
    """In a rank: leaves what the guard is to say about going on."""
    if _is_first_of_host():
        path = hint_file(_own_log())
        scratch = path.with_suffix(".tmp")
        with contextlib.suppress(OSError):  # a full disk is said where it matters
            write_text(scratch, json.dumps(hint.as_dict()))
            os.replace(scratch, path)


def withdraw_hint() -> None:
    """In a rank: the run cannot go on as it was."""
    if _is_first_of_host():
        forget_hint(_own_log())


def has_guard() -> bool:
    """Whether somebody says how to go on when this process fails."""
    return os.environ.get("MS_ROLE") == "MS_WORKER"


def _is_first_of_host() -> bool:
    return has_guard() and os.environ.get("DEVICE_ID") == "0"


def _own_log() -> Path:
    return Path(os.path.realpath("/proc/self/fd/1"))


def hint_file(log: Path) -> Path:
    return log.with_suffix(".hint")
