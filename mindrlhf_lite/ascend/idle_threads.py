"""A thread of MindSpore's asks CANN again and again whether something has been copied. On a device it waits there; in
the dry run it takes a whole core. It is given what nobody else wants.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

_EVERY_S, _ROUNDS = 1.0, 3
_OF_STAT = 11  # utime, counted from what follows the name in /proc/PID/stat


def let_spinning_threads_idle() -> None:
    """Watches this process's threads for as long as it lives; Linux."""
    threading.Thread(target=_watch, daemon=True).start()


def _watch() -> None:
    own, rounds, before = threading.get_native_id(), dict[int, int](), _seen()
    while True:
        time.sleep(_EVERY_S)
        now = _seen()
        for thread, (ticks, waits) in now.items():
            old_ticks, old_waits = before.get(thread, (ticks, waits))
            # it computes as often as it is let, and has waited for nothing
            spins = waits == old_waits and ticks > old_ticks and thread not in (own, os.getpid())
            rounds[thread] = rounds.get(thread, 0) + 1 if spins else 0
            if rounds[thread] == _ROUNDS:
                os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))
        before = now


def _seen() -> dict[int, tuple[int, int]]:
    """By thread: (clock ticks computed, how often it has waited)."""
    found = {}
    for folder in Path("/proc/self/task").iterdir():
        try:
            status, stat = (folder / "status").read_bytes(), (folder / "stat").read_bytes()
        except OSError:  # it has ended
            continue
        waits = next(int(line.split()[1]) for line in status.splitlines() if line.startswith(b"voluntary"))
        found[int(folder.name)] = int(stat.rpartition(b")")[2].split()[_OF_STAT]), waits
    return found
