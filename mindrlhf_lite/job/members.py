"""Ranks and scheduler that one msrun started on this host: which there are, where their logs lie, how they ended.

Msrun asks for its children's exit codes too; of one that it asked first, its stderr and the rank's log have to tell.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import stat
import time
from dataclasses import dataclass, field
from pathlib import Path

from mindrlhf_lite.commands.tool import FAILED
from mindrlhf_lite.job import SECOND_NODE_VARIABLE
from mindrlhf_lite.job.last_words import error_lines
from mindrlhf_lite.job.processes import Process
from mindrlhf_lite.job.whereabouts import last_noted

UNSEEN = 256  # no exit code: one that nobody can tell any more
UNKNOWN = -1  # no rank
TOGETHER_S = 0.01  # between looks at processes that end together
_POLL_S, _AT_ONCE_S = 0.1, 0.1
_OF_MSRUN = re.compile(r"Worker process (\d+) exit with exception\. Error code: (-?\d+)")


@dataclass
class Member:
    process: Process
    rank: int | None  # None: the scheduler; UNKNOWN: nobody can tell any more
    was_alive: bool = True  # when it was found
    code: int | None = None  # once it ended
    was_asked_by_msrun: bool = False  # for this code, before the guard could: the first that failed, as msrun saw it


@dataclass
class Members:
    """Those of one msrun, by process number. `log`: where the first rank writes; the others' logs lie beside it."""

    msrun: Process
    log: Path
    found: dict[int, Member] = field(default_factory=dict)
    tails: dict[int, Process] = field(default_factory=dict)  # which follow the ranks' logs
    _handles: dict[int, int] = field(default_factory=dict)  # of processes, by their number: readable once they end

    @property
    def ranks(self) -> list[Member]:
        return [member for member in self.found.values() if member.rank is not None]

    @property
    def failed(self) -> list[Member]:
        return [member for member in self.found.values() if member.code]

    def log_of(self, member: Member) -> Path:
        if member.rank is None:
            return self.log.with_name("scheduler.log")
        if member.rank == UNKNOWN:
            return self.log
        stem = self.log.stem.rpartition("_")[0] or self.log.stem
        return self.log.with_name(f"{stem}_{member.rank}{self.log.suffix}")

    def wait(self) -> None:
        """Returns at once when a process ends, else after a moment."""
        ready, _, _ = select.select(list(self._handles.values()), [], [], _POLL_S)
        for pid in [pid for pid, handle in self._handles.items() if handle in ready]:
            os.close(self._handles.pop(pid))

    def find(self) -> None:
        children = self.msrun.children()
        for child in children:
            if child.name == "tail":
                self.tails[child.pid] = child
            elif child.pid not in self.found:
                environment = child.environment()
                role = environment.get("MS_ROLE")
                if role == "MS_WORKER":
                    rank: int | None = int(environment.get("RANK_ID", "0"))
                elif role == "MS_SCHED":
                    rank = None
                elif not child.is_alive():  # it ended before we looked, and its environment with it
                    rank = self._rank_by_birth(child, children)
                else:
                    continue  # it is not yet what it will be
                if rank is None and SECOND_NODE_VARIABLE in os.environ:
                    continue  # it ends at once: the first node's, on the same host, serves both
                self.found[child.pid] = Member(child, rank, child.is_alive())
                with contextlib.suppress(OSError):  # it ended, or an old kernel: polling sees it a little later
                    self._handles[child.pid] = os.pidfd_open(child.pid)
        for pid, code in self._codes_that_msrun_wrote().items():
            if pid not in self.found:  # msrun has taken its end already
                gone = Process(pid, 0, "")
                self.found[pid] = Member(gone, UNKNOWN, False, code, was_asked_by_msrun=True)

    def _rank_by_birth(self, child: Process, children: list[Process]) -> int | None:
        """Msrun starts its scheduler, where it has one, and then rank after rank."""
        family = {each.pid: each for each in (*children, *(member.process for member in self.found.values()))}
        births = sorted((each.start, each.pid) for each in family.values() if each.name != "tail" and each.start)
        places = {pid: place for place, (_, pid) in enumerate(births)}
        number = self.log.stem.rpartition("_")[2]
        first = int(number) if number.isdecimal() else 0  # of this host's ranks
        known = [member for member in self.ranks if member.rank != UNKNOWN]
        offset = (known[0].rank or 0) - places[known[0].process.pid] if known else first - 1
        rank = places[child.pid] + offset
        return rank if rank >= first else None

    def _codes_that_msrun_wrote(self) -> dict[int, int]:
        """{process: exit code other than 0}, where msrun's stderr is a file."""
        with contextlib.suppress(OSError):
            stderr = Path(f"/proc/{self.msrun.pid}/fd/2")
            if stat.S_ISREG(stderr.stat().st_mode):
                found = _OF_MSRUN.findall(stderr.read_text(encoding="utf-8", errors="replace"))
                return {int(pid): int(code) for pid, code in found}
        return {}

    def read_codes(self) -> None:
        for member in self.found.values():
            if member.code is None and not member.process.is_alive():
                code = member.process.exit_code()
                if code is None:
                    code = self._code_that_msrun_took(member)
                    member.was_asked_by_msrun = code != 0
                member.code = code

    def _code_that_msrun_took(self, member: Member) -> int:
        """Of a process that msrun asked before the guard did; what it finds wrong it writes to its stderr and kills the
        other ranks. `UNSEEN` where that is no file and the rank was in the midst of something.
        """
        if (code := self._codes_that_msrun_wrote().get(member.process.pid)) is not None:
            return code
        log = self.log_of(member)
        if error_lines(log):
            return FAILED
        return UNSEEN if last_noted(log) else 0

    def have_said_why(self) -> bool:
        """Whether an error stands at the end of any log."""
        return any(map(error_lines, map(self.log_of, self.found.values())))

    def scheduler_ends_too(self) -> bool:
        """Whether the scheduler, if it is on this host, has ended by itself or ends in a moment."""
        schedulers = [member.process for member in self.found.values() if member.rank is None]
        deadline = time.monotonic() + _AT_ONCE_S
        while is_there := any(process.is_alive() for process in schedulers):
            if time.monotonic() > deadline:
                break
            time.sleep(TOGETHER_S)
        return not is_there

    def all_are_dead(self) -> bool:
        """Ranks and scheduler; nobody but msrun ends all of them."""
        return not any(member.process.is_alive() for member in self.found.values())


def name_of(member: Member) -> str:
    return "the scheduler" if member.rank is None else "a rank" if member.rank == UNKNOWN else f"rank {member.rank}"
