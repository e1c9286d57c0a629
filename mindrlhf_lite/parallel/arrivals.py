"""Waiting for slower ranks, however long they take.

MindSpore's collectives on CPU give up 30 s after the first rank has come (a constant of its build, no setting). A
pipeline stage compiles its backward graph for longer than that, and so may one rank generate, score or save while the
others wait. So ranks say in a key-value store that they have come, and look there for the others, before they meet in
a collective.
"""

from __future__ import annotations

import os
import socket
import time
from typing import Any

_FIRST_PAUSE, _LONGEST_PAUSE = 0.0002, 0.02  # s between two looks


def own_address() -> str:
    """The address of this host that the others reach, as msrun's scheduler sees it."""
    scheduler = os.environ.get("MS_SCHED_HOST", "127.0.0.1")
    with socket.socket(socket.AF_INET6 if ":" in scheduler else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((scheduler, 9))  # sends nothing
        return str(probe.getsockname()[0])


class Arrivals:
    """Counts of who has come how often, kept by rank 0; one request takes about 0.2 ms.

    Args:
        address, port: where rank 0 listens; every rank is to create one of these.
    """

    def __init__(self, address: str, port: int, rank: int, world_size: int):
        from mindspore.mint.distributed import TCPStore

        self._store: Any = TCPStore(address, port, world_size, is_master=rank == 0)
        self._wanted: dict[str, int] = {}

    def announce(self, name: str) -> None:
        self._store.add(name, 1)

    def wait_for(self, name: str, more: int = 1) -> None:
        """Until `more` announcements under this name have come since the last ones that were waited for."""
        self._wanted[name] = wanted = self._wanted.get(name, 0) + more
        pause = _FIRST_PAUSE
        while self._store.add(name, 0) < wanted:
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
