"""Processes as /proc shows them: children, whether they live, how they ended."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """A process that stays the same one when its number is given away again.

    Example: Process(pid=4711, start=8_123_456, name="python")
    """

    pid: int
    start: int  # clock ticks after boot
    name: str

    @staticmethod
    def find(pid: int) -> Process | None:
        """The process with this number, or None."""
        stat = _stat(pid)
        return None if stat is None else Process(pid, int(stat.fields[19]), stat.name)

    def is_alive(self) -> bool:
        stat = self._own_stat()
        return stat is not None and stat.fields[0] not in "ZX"

    def exit_code(self) -> int | None:
        """Once it ended and before its parent asked: the exit code, or minus the signal that ended it. Else None."""
        stat = self._own_stat()
        if stat is None or stat.fields[0] not in "ZX":
            return None
        status = int(stat.fields[49])
        return -(status & 0x7F) if status & 0x7F else status >> 8

    def environment(self) -> dict[str, str]:
        """Its environment; empty where it cannot be read (ended, or another user's)."""
        try:
            words = Path(f"/proc/{self.pid}/environ").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            return {}
        return dict(word.split("=", 1) for word in words if "=" in word)

    def command_line(self) -> list[str]:
        """Its words; empty where they cannot be read."""
        try:
            return Path(f"/proc/{self.pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
        except OSError:
            return []

    def children(self) -> list[Process]:
        """In the order of their birth; also those that ended and were not asked for."""
        try:
            pids = [
                int(word)
                for word in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text(encoding="ascii").split()
            ]
        except OSError:  # it ended, or the kernel has no such file
            pids = [
                int(entry.name)
                for entry in Path("/proc").iterdir()
                if entry.name.isdigit() and _parent(int(entry.name)) == self.pid
            ]
        return sorted((child for child in map(Process.find, pids) if child), key=lambda child: (child.start, child.pid))

    def end(self, number: int = signal.SIGKILL, is_group: bool = False) -> None:
        """Sends a signal, to its whole group if asked and if it leads one; nothing if it has ended."""
        if not self.is_alive():
            return
        try:
            if is_group and os.getpgid(self.pid) == self.pid:
                os.killpg(self.pid, number)
            else:
                os.kill(self.pid, number)
        except ProcessLookupError:
            pass

    def _own_stat(self) -> _Stat | None:
        stat = _stat(self.pid)
        return stat if stat is not None and int(stat.fields[19]) == self.start else None


@dataclass(frozen=True)
class _Stat:
    name: str
    fields: list[str]  # of /proc/PID/stat behind the name, from the state on


def _stat(pid: int) -> _Stat | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    before, _, after = text.rpartition(")")  # a name may hold anything
    return _Stat(before.partition("(")[2], after.split())


def _parent(pid: int) -> int | None:
    stat = _stat(pid)
    return None if stat is None else int(stat.fields[1])
