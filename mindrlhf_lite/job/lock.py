"""One run in an output folder at a time, and one tool at one output: locks that are held as long as a process lives.

However it ends, the system takes the lock back.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import fcntl
import os
import re
import socket
import stat
from pathlib import Path

from mindrlhf_lite.errors import UserError

LOCK_FILE = ".lock"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)

_held: set[Path] = set()  # by this process, beside outputs


class FolderIsTaken(Exception):
    """Somebody else holds the lock; the text says who."""


def lock_folder(folder: Path) -> int | None:
    """The lock's file descriptor, to be kept; None where the file system has no locks (some network ones).

    Raises:
        FolderIsTaken: another process holds it.
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return _lock(folder / LOCK_FILE)


def is_held(folder: Path) -> bool | None:
    """Whether a process of this host holds the folder's lock, without touching it: who only looks must not be in the
    way of a run that starts. None: another host's, or the system does not say.
    """
    try:
        if not (file := folder / LOCK_FILE).is_file():
            return False
        found = re.match(r"process (\d{1,9}) on (\S+)", file.read_text(encoding="utf-8", errors="replace")[:400])
        locks = Path("/proc/locks").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    if found is None or found[2] != socket.gethostname():
        return None
    return re.search(rf"\bFLOCK\b.* WRITE {found[1]} ", locks) is not None


def hold_output(path: str | Path) -> None:
    """Keeps other tools from this output, a file or a folder, as long as this process lives. Raises UserError where one
    is at it. Where nothing can be written beside the output, nothing is kept: the tool will say so.
    """
    output = Path(os.path.abspath(path))
    file = output.with_name(f".{output.name}.lock")
    if file in _held:
        return
    with contextlib.suppress(OSError):
        output.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = _lock(file)
        except FolderIsTaken as taken:
            raise UserError(f"{path}: another command is writing it ({taken}); wait for it, or give another") from None
        if handle is not None:
            _held.add(file)
            atexit.register(file.unlink, missing_ok=True)


def _lock(path: Path) -> int | None:
    """The descriptor of a locked file. One that is removed meanwhile by whoever held it is locked by nobody else."""
    while True:
        # others may have made the file: no link is followed, no pipe waited for
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise OSError(errno.EEXIST, "no file of locks", str(path))
        if not _is_locked(handle):
            return None
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                break
        os.close(handle)
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    return handle


def _is_locked(handle: int) -> bool:
    """False where there are no locks. The descriptor is closed where it is not locked. Raises FolderIsTaken."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(handle, 200).decode(errors="replace").strip()
        os.close(handle)
        raise FolderIsTaken(holder or "a process that has not said who it is") from None
    except OSError as error:
        os.close(handle)
        if error.errno in _NO_LOCKS:
            return False
        raise
    return True
