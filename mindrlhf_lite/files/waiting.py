"""Waiting for what other processes write, in a process that may be stopped meanwhile."""

from __future__ import annotations

import selectors
import time
from typing import Any

_SLICE_SECONDS = 0.5


def readable(streams: selectors.BaseSelector, seconds: float) -> tuple[list[Any], float]:
    """(data of the streams that have something to read after at most so many seconds; how much longer it took).

    It took longer where this process was stopped, or had no processor. The system counts that time too, and ends the
    wait with it: so it is measured in slices, of which at most one is missed.
    """
    longer = 0.0
    while True:
        part, before = min(max(0.0, seconds), _SLICE_SECONDS), time.monotonic()
        found = [key.data for key, _ in streams.select(part)]
        longer += max(0.0, time.monotonic() - before - part)
        seconds -= part
        if found or seconds <= 0:
            return found, longer
