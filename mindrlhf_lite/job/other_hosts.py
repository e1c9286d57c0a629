"""How the guards of several hosts hear of one another: the one that ends its ranks leaves a file in the run's output
folder, which all hosts see; the others look for it once a second.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from pathlib import Path

from mindrlhf_lite.files.text_file import write_text

_NEWS, _NEWS_S = ".ended_on_a_host", 1.0


class OtherHosts:
    """What other hosts' guards write from the first look on."""

    def __init__(self) -> None:
        self._old_news: int | None = None  # when the file was written that was there before this job; 0: there was none
        self._next_look = 0.0

    def news(self, folder: Path) -> str:
        """What another host's guard wrote into the run's folder since this one listens, or ""."""
        if time.monotonic() < self._next_look:
            return ""
        self._next_look, path = time.monotonic() + _NEWS_S, folder / _NEWS
        try:
            written = path.stat().st_mtime_ns
        except OSError:
            written = 0
        if self._old_news is None:
            self._old_news = written
        if written in (0, self._old_news):
            return ""
        with contextlib.suppress(OSError):
            return path.read_text(encoding="utf-8", errors="replace").strip()
        return ""


def tell_other_hosts(folder: Path, message: str) -> None:
    host = socket.gethostname()
    with contextlib.suppress(OSError):  # they learn it from the scheduler, later
        scratch = folder / f"{_NEWS}.{host}"
        write_text(scratch, message or f"a rank on {host} failed; its log there says why")
        os.replace(scratch, folder / _NEWS)
