"""The secret that all ranks of a job share.

`mindrlhf_lite.job` makes one for the ranks of one host and hands it to them through their environment, which other
users cannot read. Where it is not given (msrun by hand, several hosts), the first rank leaves one in a folder that all
see, in a file that its owner alone can read.
"""

from __future__ import annotations

import os
import secrets
import stat
import time
from pathlib import Path

from mindrlhf_lite.errors import UserError

KEY_VARIABLE = "MINDRLHF_JOB_KEY"
_LEAST = 32  # characters
_WAIT_S, _PAUSE_S = 60.0, 0.1  # a network file system shows a new file late


def new_key() -> str:
    return secrets.token_hex(32)


def given_key() -> bytes | None:
    """The key of the environment, or None. Raises UserError where it is short."""
    text = os.environ.get(KEY_VARIABLE, "")
    if text and len(text) < _LEAST:
        raise UserError(f"{KEY_VARIABLE}: {len(text)} characters; {_LEAST} are needed, as `openssl rand -hex 32` gives")
    return text.encode() or None


def log_folder() -> Path:
    """Where this rank's output goes under msrun; else the current folder."""
    output = Path(os.path.realpath("/proc/self/fd/1"))
    return output.parent if output.is_file() else Path.cwd()


def _path_in(folder: Path) -> Path:
    return folder / f".job_key_{os.environ.get('MS_SCHED_PORT', '')}"  # two jobs may have one folder


def leave_key(folder: Path) -> bytes:
    """Makes a key and leaves it for the other ranks; `forget_key` once they have it."""
    folder.mkdir(parents=True, exist_ok=True)
    path, key = _path_in(folder), new_key()
    path.unlink(missing_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(key)
    return key.encode()


def find_key(folder: Path) -> bytes:
    """The key that the first rank left. Raises UserError where there is none, or another user may have made it."""
    path, deadline = _path_in(folder), time.monotonic() + _WAIT_S
    while True:
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            break
        except OSError as error:
            if time.monotonic() > deadline:
                raise UserError(
                    f"{path}: the job's key is not there ({error.strerror}); where hosts share no folder, give all of "
                    f"them one: export {KEY_VARIABLE}=$(openssl rand -hex 32) on one, the same value on the others"
                ) from None
            time.sleep(_PAUSE_S)
    with os.fdopen(handle, encoding="ascii") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
            raise UserError(f"{path}: it is not this user's alone; remove it, or give {KEY_VARIABLE}")
        return file.read().encode()


def forget_key(folder: Path) -> None:
    _path_in(folder).unlink(missing_ok=True)
