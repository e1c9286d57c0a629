"""Files and folders that are on disk, whole, under their final names, or not there: flushed before they are renamed,
and their folders after.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def flush(path: Path) -> None:
    """Waits until a file, or the entries of a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_all(folder: Path) -> None:
    """`flush` of everything in a folder, and of itself."""
    for path in sorted(folder.rglob("*")):
        flush(path)
    flush(folder)


def make_folder(folder: Path) -> None:
    """A folder with its parents; what is new of them is on disk."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in new:
        flush(path.parent)


def place(scratch: Path, final: Path) -> None:
    """Gives a finished file or folder, beside `final`, its name, in place of what had it."""
    if scratch.is_dir():
        flush_all(scratch)
        set_aside(final)
    else:
        flush(scratch)
    os.replace(scratch, final)
    flush(final.parent)
    shutil.rmtree(_aside(final), ignore_errors=True)  # also of a process that ended before it could


def set_aside(folder: Path) -> Path | None:
    """Takes a folder's name from it, at once: removing it takes a while, and half of it must never be found under its
    name. Returns where it is.
    """
    if not folder.exists():
        return None
    aside = _aside(folder)
    shutil.rmtree(aside, ignore_errors=True)
    os.replace(folder, aside)
    return aside


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.removed")


def remove(folder: Path) -> None:
    """Removes a folder as a whole."""
    aside = set_aside(folder)
    if aside is not None:
        shutil.rmtree(aside, ignore_errors=True)


def why_not_a_folder(path: Path) -> str:
    """Why nothing can be written into a folder that may not be there yet; empty if it can."""
    if path.exists() and not path.is_dir():
        return "it is a file"
    there = next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())
    if not there.is_dir():
        return f"{there} is a file"
    if not os.access(there, os.W_OK | os.X_OK):
        return f"{there} is not writable"
    return ""
