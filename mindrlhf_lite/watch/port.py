"""The port of a page, on loopback only."""

from __future__ import annotations

import os
import socket
import sys
from importlib.util import find_spec

ADDRESS = "127.0.0.1"


def listen_on(port: int) -> socket.socket:
    """Args: port: 0: any. Raises OSError where it is taken."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((ADDRESS, port))
        listener.listen(64)
    except OSError:
        listener.close()
        raise
    return listener


def missing_library() -> str:
    """What an environment lacks that was built before there was a page, in words; "": nothing."""
    return "" if find_spec("tornado") else f"{sys.executable} has no tornado: `bash build.sh` installs it"


def why(error: OSError) -> str:
    """In the system's words."""
    return os.strerror(error.errno) if error.errno else str(error)
