"""The page that a run shows of itself (rl_config.watch_port): a process of its own, so that nothing it does reaches the
run; it ends with the run, however that ends.

The run takes the port before that process starts: a port that is taken is a warning at once.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from mindrlhf_lite.commands.own_python import module_command
from mindrlhf_lite.commands.signals import listen_to_signals_again
from mindrlhf_lite.files.text_file import say
from mindrlhf_lite.job.lifelines import die_with_parent
from mindrlhf_lite.watch.port import ADDRESS, listen_on, missing_library, why

_LOG = "watch.log"
_POLL_S = 0.5


class RunPage:
    """Args: port: 0: there is no page; output: of the run; completions: folder of its completion files."""

    def __init__(self, port: int, output: Path, completions: Path):
        self._process: subprocess.Popen[bytes] | None = None
        if port:
            self._start(port, output, completions)

    def close(self) -> None:
        """Ends the page."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _start(self, port: int, output: Path, completions: Path) -> None:
        if lack := missing_library():
            say(f"warning: rl_config.watch_port={port}: no page: {lack}")
            return
        try:
            listener = listen_on(port)
        except OSError as error:
            say(f"warning: rl_config.watch_port={port}: no page: {why(error)}; give a free port")
            return
        said = os.path.realpath("/proc/self/fd/1")  # whereabouts are noted beside it
        words = (str(listener.fileno()), str(os.getpid()), str(output.resolve()), str(completions.resolve()), said)
        try:
            with listener, open(output / _LOG, "ab") as log:
                self._process = subprocess.Popen(
                    [*module_command("mindrlhf_lite.watch.of_run"), *words],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(listener.fileno(),),
                    start_new_session=True,
                )
        except OSError as error:
            say(f"warning: rl_config.watch_port={port}: no page: {why(error)}")
            return
        say(f"watch this run: http://{ADDRESS}:{port}/")


def _end_with(parent: int) -> None:
    """Whoever started this process is gone: so is this one, whatever it is at."""
    while os.getppid() == parent:
        time.sleep(_POLL_S)
    os._exit(0)


def main() -> None:
    (handle, parent), (output, completions, log) = map(int, sys.argv[1:3]), map(Path, sys.argv[3:])
    die_with_parent()
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    listen_to_signals_again()
    from mindrlhf_lite.watch.run import WatchedRun
    from mindrlhf_lite.watch.server import serve
    from mindrlhf_lite.watch.views import Views

    serve(Views([WatchedRun(output.name, output, completions, log)]), socket.socket(fileno=handle))


if __name__ == "__main__":
    main()
