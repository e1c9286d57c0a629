"""A tracker's process: `python worker.py NAME FOLDER` reads a run's messages as JSON lines, the run itself first, and
ends with its input. It imports nothing of this project but backends.py, which lies beside it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

_LEFT_S = 60  # that a library may take for its last files after the run has ended


def die_with(parent: int) -> None:
    """Whoever started this process is gone: nobody waits for what hangs here."""
    while os.getppid() == parent:
        time.sleep(1.0)
    time.sleep(_LEFT_S)
    os._exit(1)


def main() -> None:
    from backends import BACKENDS  # type: ignore[import-not-found]

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the run's, which then ends the input
    threading.Thread(target=die_with, args=(os.getppid(),), daemon=True).start()
    name, folder = sys.argv[1], Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    tracker = BACKENDS[name](folder, json.loads(sys.stdin.readline()))
    for line in sys.stdin:
        kind, arguments = json.loads(line)
        getattr(tracker, kind)(*arguments)
    signal.alarm(_LEFT_S)
    tracker.close()


if __name__ == "__main__":
    main()
