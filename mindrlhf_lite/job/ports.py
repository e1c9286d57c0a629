"""Ports on this host."""

from __future__ import annotations

import errno
import socket


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_taken(address: str, port: int) -> bool:
    """Whether this host cannot listen there because somebody does."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # left-over connections are no hindrance
        try:
            probe.bind((address, port))
        except OSError as error:
            # another host's address, or one that this user may not have, is not our business
            return error.errno == errno.EADDRINUSE
    return False


def taken_message(setting: str, address: str, port: int) -> str:
    """What to say of a taken port."""
    return f"{setting}={port}: another program listens on {address}:{port}; give a free port, such as {free_port()}"
