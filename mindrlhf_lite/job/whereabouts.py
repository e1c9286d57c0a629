"""What a rank is at, in a small file beside its log: whoever finds the rank dead can say where it died."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

RUN_BAR = "training"  # what a run's bar, and its lines in a log, begin with: no last words of a dead rank
_BYTES = 80


def _path_of(log: Path) -> Path:
    return log.with_suffix(".at")


class Whereabouts:
    """Of this process: under msrun, whose ranks write to a log file; elsewhere it notes nothing.

    Example: Whereabouts().note("step 12, update")
    """

    def __init__(self) -> None:
        self._file = -1
        if os.environ.get("MS_ROLE") == "MS_WORKER":
            with contextlib.suppress(OSError):
                path = _path_of(Path(os.path.realpath("/proc/self/fd/1")))
                self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)

    def note(self, text: str) -> None:
        if self._file >= 0:
            with contextlib.suppress(OSError):  # a full disk is said where it matters
                os.pwrite(self._file, text[:_BYTES].ljust(_BYTES).encode(), 0)


def last_noted(log: Path) -> str:
    """What the rank with this log noted last, or ""."""
    with contextlib.suppress(OSError):
        return _path_of(log).read_text(encoding="utf-8", errors="replace").strip()
    return ""
