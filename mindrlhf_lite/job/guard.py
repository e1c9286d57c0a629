"""Watches the processes that one msrun started, and ends all of them when one fails, so that nobody waits for the dead.

msrun itself notices a dead rank only by its exit code, once a second, kills the others and then waits (up to 30 s) for
its scheduler; when msrun is ended by a signal its ranks live on. `mindrlhf_lite.job` starts this guard together with
msrun; where msrun is started by hand, the first rank of a host does, before it imports anything heavy. The guard says
on msrun's stdout, in one line, which rank ended how and how to go on; ranks that fail say why themselves.

On several hosts each has a guard of its own. The one that ends its ranks leaves a file in the run's output folder,
which all hosts see; the others look for it once a second.

The exit status of msrun is then that of a killed process. `mindrlhf_lite.job` (which the scripts use) gives exact ones:
it reads them from the file named in MINDRLHF_JOB_STATUS.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import select
import signal
import socket
import stat
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from mindrlhf_lite.commands.own_python import module_command
from mindrlhf_lite.commands.resume_hint import ResumeHint
from mindrlhf_lite.commands.signals import listen_to_signals_again
from mindrlhf_lite.files.text_file import read_text, write_text
from mindrlhf_lite.job import SECOND_NODE_VARIABLE
from mindrlhf_lite.job.processes import Process
from mindrlhf_lite.job.whereabouts import last_noted

STATUS_VARIABLE = "MINDRLHF_JOB_STATUS"
GUARDED_VARIABLE = "MINDRLHF_JOB_GUARDED"  # the ranks need start no guard
_POLL_S, _TOGETHER_S, _AT_ONCE_S, _TAIL_S, _SIBLINGS_S = 0.1, 0.01, 0.1, 0.3, 10.0
_NEWS, _NEWS_S = ".ended_on_a_host", 1.0
_PIDFD_GETFD = 438  # Linux 5.6, all architectures
_USER_ERROR, _FAILED, _INTERRUPTED = 2, 1, 130
_UNSEEN = 256  # no exit code: one that nobody can tell any more
_UNKNOWN = -1  # no rank
_MSRUN_ENDED = "stopped: msrun was ended"
_OF_MSRUN = re.compile(r"Worker process (\d+) exit with exception\. Error code: (-?\d+)")


def guard_command(msrun: int, log: Path) -> list[str]:
    """What to run, in a session of its own. Args: msrun: its process; log: where the first rank of this host writes."""
    return [*module_command("mindrlhf_lite.job.guard"), str(msrun), str(log)]


def start_guard() -> None:
    """In a rank: starts the guard of this host's ranks, if it is the first of them and none has been started."""
    if not _is_first_of_host():
        return
    forget_hint(_own_log())
    if GUARDED_VARIABLE not in os.environ:
        command = guard_command(os.getppid(), _own_log())
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)


def forget_hint(log: Path) -> None:
    """Before a guard starts: what an earlier job with this log has left."""
    _hint_of(log).unlink(missing_ok=True)


def tell_guard(hint: ResumeHint) -> None:
    """In a rank: leaves what the guard is to say about going on."""
    if _is_first_of_host():
        path = _hint_of(_own_log())
        scratch = path.with_suffix(".tmp")
        with contextlib.suppress(OSError):  # a full disk is said where it matters
            write_text(scratch, json.dumps(hint.as_dict()))
            os.replace(scratch, path)


def withdraw_hint() -> None:
    """In a rank: the run cannot go on as it was."""
    if _is_first_of_host():
        forget_hint(_own_log())


def has_guard() -> bool:
    """Whether somebody says how to go on when this process fails."""
    return os.environ.get("MS_ROLE") == "MS_WORKER"


def _is_first_of_host() -> bool:
    return has_guard() and os.environ.get("DEVICE_ID") == "0"


def _own_log() -> Path:
    return Path(os.path.realpath("/proc/self/fd/1"))


def _hint_of(log: Path) -> Path:
    return log.with_suffix(".hint")


@dataclass
class _Member:
    process: Process
    rank: int | None  # None: the scheduler; UNKNOWN: nobody can tell any more
    was_alive: bool = True  # when it was found
    code: int | None = None  # once it ended
    was_asked_by_msrun: bool = False  # for this code, before the guard could: the first that failed, as msrun saw it


@dataclass
class Guard:
    """The processes of one msrun. `log`: where the first rank writes; the others' logs lie beside it."""

    msrun: Process
    log: Path
    console: int  # file descriptor
    members: dict[int, _Member] = field(default_factory=dict)
    tails: dict[int, Process] = field(default_factory=dict)
    _hint: ResumeHint | None = None
    _old_news: int | None = None  # when the file was written that was there before this job; 0: there was none
    _next_look: float = 0.0
    _handles: dict[int, int] = field(default_factory=dict)  # of processes, by their number: readable once they end

    def watch(self) -> None:
        """Returns when the job is over and nothing of it is left."""
        while True:
            self._wait()
            self._find_members()
            self._read_codes()
            if any(member.code for member in self.members.values()):
                return self._fail()
            if news := self._news():
                self.msrun.end(signal.SIGTERM)
                return self._end(_FAILED, f"stopped: {news}", is_news=False)
            if not self.msrun.is_alive():
                if any(member.code is None for member in self._ranks):
                    return self._end(_INTERRUPTED, self._reason() or _MSRUN_ENDED)
                return self._clear()

    def _news(self) -> str:
        """What another host's guard wrote since this one listens, or ""."""
        if self.hint is None or not self._has_other_hosts or time.monotonic() < self._next_look:
            return ""
        self._next_look, path = time.monotonic() + _NEWS_S, Path(self.hint.output_dir) / _NEWS
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

    def _tell_other_hosts(self, message: str) -> None:
        if self.hint is not None and self._has_other_hosts:
            folder, host = Path(self.hint.output_dir), socket.gethostname()
            with contextlib.suppress(OSError):  # they learn it from the scheduler, later
                scratch = folder / f"{_NEWS}.{host}"
                write_text(scratch, message or f"a rank on {host} failed; its log there says why")
                os.replace(scratch, folder / _NEWS)

    @property
    def _has_other_hosts(self) -> bool:
        here = sum(member.rank != _UNKNOWN for member in self._ranks)
        return int(os.environ.get("MS_WORKER_NUM", "1")) > here

    @property
    def _ranks(self) -> list[_Member]:
        return [member for member in self.members.values() if member.rank is not None]

    @property
    def hint(self) -> ResumeHint | None:
        """What the first rank has left (`tell_guard`)."""
        if self._hint is None:
            with contextlib.suppress(OSError, ValueError, TypeError):
                self._hint = ResumeHint(**json.loads(read_text(_hint_of(self.log))))
        return self._hint

    def _wait(self) -> None:
        """Returns at once when a process ends, else after a moment."""
        ready, _, _ = select.select(list(self._handles.values()), [], [], _POLL_S)
        for pid in [pid for pid, handle in self._handles.items() if handle in ready]:
            os.close(self._handles.pop(pid))

    def _find_members(self) -> None:
        children = self.msrun.children()
        for child in children:
            if child.name == "tail":
                self.tails[child.pid] = child
            elif child.pid not in self.members:
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
                self.members[child.pid] = _Member(child, rank, child.is_alive())
                with contextlib.suppress(OSError):  # it ended, or an old kernel: polling sees it a little later
                    self._handles[child.pid] = os.pidfd_open(child.pid)
        for pid, code in self._codes_that_msrun_wrote().items():
            if pid not in self.members:  # msrun has taken its end already
                gone = Process(pid, 0, "")
                self.members[pid] = _Member(gone, _UNKNOWN, False, code, was_asked_by_msrun=True)

    def _rank_by_birth(self, child: Process, children: list[Process]) -> int | None:
        """Msrun starts its scheduler, where it has one, and then rank after rank."""
        family = {each.pid: each for each in (*children, *(member.process for member in self.members.values()))}
        births = sorted((each.start, each.pid) for each in family.values() if each.name != "tail" and each.start)
        places = {pid: place for place, (_, pid) in enumerate(births)}
        number = self.log.stem.rpartition("_")[2]
        first = int(number) if number.isdecimal() else 0  # of this host's ranks
        known = [member for member in self._ranks if member.rank != _UNKNOWN]
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

    def _read_codes(self) -> None:
        for member in self.members.values():
            if member.code is None and not member.process.is_alive():
                code = member.process.exit_code()
                if code is None:
                    code = self._code_that_msrun_took(member)
                    member.was_asked_by_msrun = code != 0
                member.code = code

    def _code_that_msrun_took(self, member: _Member) -> int:
        """Of a process that msrun asked before the guard did; what it finds wrong it writes to its stderr and kills the
        other ranks. `_UNSEEN` where that is no file and the rank was in the midst of something.
        """
        if (code := self._codes_that_msrun_wrote().get(member.process.pid)) is not None:
            return code
        log = self._log_of(member)
        if _error_lines(log):
            return _FAILED
        return _UNSEEN if last_noted(log) else 0

    def _fail(self) -> None:
        """Something ended that should not: finds out what, ends msrun before it does more, and the rest after it."""
        time.sleep(_TOGETHER_S)
        self._read_codes()
        failed = [member for member in self.members.values() if member.code]
        if not self.msrun.is_alive() and all(member.code in (-signal.SIGKILL, _UNSEEN) for member in failed):
            self._end(_INTERRUPTED, self._reason() or _MSRUN_ENDED)  # its scheduler goes with it
            return
        if all(member.code == -signal.SIGKILL for member in failed) and self._scheduler_ends_too():
            # after Ctrl-C msrun kills everything at once, which takes large processes a while
            self.msrun.end(signal.SIGTERM)  # before it ends by itself, as if all were well
            deadline = time.monotonic() + _TAIL_S
            while time.monotonic() < deadline and not self._all_are_dead():
                time.sleep(_TOGETHER_S)
            # a rank that is alone on its host may just have been killed
            num_ended_now = sum(member.was_alive for member in self.members.values())
            if self._all_are_dead() and (num_ended_now > 1 or self._reason()):
                self._end(_INTERRUPTED, "interrupted")
                return
        if all(member.code == _USER_ERROR for member in failed):  # found by every rank, said by the first
            deadline = time.monotonic() + _SIBLINGS_S
            while time.monotonic() < deadline and not any(map(_error_lines, map(self._log_of, self.members.values()))):
                time.sleep(_POLL_S)
        self.msrun.end(signal.SIGTERM)
        self._end(*self._verdict(failed))

    def _scheduler_ends_too(self) -> bool:
        """Whether the scheduler, if it is on this host, has ended by itself or ends in a moment."""
        schedulers = [member.process for member in self.members.values() if member.rank is None]
        deadline = time.monotonic() + _AT_ONCE_S
        while is_there := any(process.is_alive() for process in schedulers):
            if time.monotonic() > deadline:
                break
            time.sleep(_TOGETHER_S)
        return not is_there

    def _all_are_dead(self) -> bool:
        """Ranks and scheduler; nobody but msrun ends all of them."""
        return not any(member.process.is_alive() for member in self.members.values())

    def _verdict(self, failed: list[_Member]) -> tuple[int, str]:
        """(exit code of the job, what to say: nothing where a rank said it)."""
        if first := [member for member in failed if member.was_asked_by_msrun]:
            failed = first  # msrun killed the others
        was_killed = all(member.code is not None and (member.code < 0 or member.code == _UNSEEN) for member in failed)
        # what the others of a killed rank say is a consequence
        speakers = failed if was_killed else sorted(self.members.values(), key=lambda member: member.code is None)
        for member in speakers:
            if said := _error_lines(self._log_of(member)):
                return max(member.code or _FAILED, _FAILED), "" if member.rank is not None else said[-1]
        cause = min(failed, key=lambda member: member.rank is None)
        name, log = _name_of(cause), self._log_of(cause)
        assert cause.code
        at = f" in {found}" if (found := last_noted(log)) else ""
        end = f"; its log, {log}, ends with{lines}" if (lines := _last_lines(log)) else f"; its log: {log}"
        if cause.code == _UNSEEN:
            return _FAILED, f"error: {name} ended{at}, how only msrun's own log says{end}"
        if cause.code > 0:
            return cause.code, f"error: {name} ended with exit code {cause.code}{at}{end}"
        number = -cause.code
        known = signal.Signals(number).name if number in set(signal.Signals) else "unknown"
        reason = ", as the system does when memory runs out (dmesg would say so)" if number == signal.SIGKILL else ""
        return _FAILED, f"error: {name} was killed by signal {number} ({known}){at}{reason}{end}"

    def _log_of(self, member: _Member) -> Path:
        if member.rank is None:
            return self.log.with_name("scheduler.log")
        if member.rank == _UNKNOWN:
            return self.log
        stem = self.log.stem.rpartition("_")[0] or self.log.stem
        return self.log.with_name(f"{stem}_{member.rank}{self.log.suffix}")

    def _end(self, code: int, message: str, is_news: bool = True) -> None:
        """Ends everything, says `message` and how to go on. is_news: other hosts are to hear it."""
        if is_news:
            self._tell_other_hosts(message)
        for member in self.members.values():
            member.process.end(is_group=member.rank is not None)
        time.sleep(_TAIL_S)  # what ranks said last is on its way through tail
        can_go_on = code != _USER_ERROR and _hint_of(self.log).is_file()
        hint = self.hint.text() if self.hint and can_go_on else ""
        if path := os.environ.get(STATUS_VARIABLE):
            write_text(path, f"{code}\n")
        if text := "; ".join(filter(None, (message, hint))):
            self._say(text)
        self.msrun.end(signal.SIGTERM)
        self._clear()

    def _reason(self) -> str:
        """Why `mindrlhf_lite.job` ended msrun, if it did."""
        path = os.environ.get(STATUS_VARIABLE)
        return Path(path).read_text(encoding="utf-8").strip() if path and Path(path).is_file() else ""

    def _say(self, text: str) -> None:
        with contextlib.suppress(OSError):  # nobody listens any more
            os.write(self.console, f"\n{text}\n".encode(errors="backslashreplace"))
            time.sleep(_TAIL_S)

    def _clear(self) -> None:
        """Ends what followed the ranks' logs."""
        for tail in self.tails.values():
            tail.end()


def _name_of(member: _Member) -> str:
    return "the scheduler" if member.rank is None else "a rank" if member.rank == _UNKNOWN else f"rank {member.rank}"


def _error_lines(log: Path) -> list[str]:
    """Lines at the end of a log that begin with "error:"."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 65536))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    return [
        line for line in lines if line.startswith("error:") or "error: rank " in line
    ]  # the latter behind a progress bar


def _last_lines(log: Path, count: int = 3) -> str:
    """The last lines of a log that are not a progress bar's, each on a line of its own, indented."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 8192))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    kept = [line.rstrip() for line in lines if line.strip() and "grpo " not in line]
    return "".join(f"\n    {line[:200]}" for line in kept[-count:])


def main() -> None:
    listen_to_signals_again()
    msrun = Process.find(int(sys.argv[1]))
    if msrun is None:
        return
    log = Path(sys.argv[2])
    Guard(msrun, log, _console(msrun, log)).watch()


def _console(msrun: Process, log: Path) -> int:
    """Msrun's stdout: its very own, so that a file that several programs write goes on where they are; else opened anew
    if it is no file; else the first rank's log, which tail shows."""
    with contextlib.suppress(OSError):
        shared = ctypes.CDLL(None, use_errno=True).syscall(_PIDFD_GETFD, os.pidfd_open(msrun.pid), 1, 0)
        if shared >= 0:
            return int(shared)
    with contextlib.suppress(OSError):
        stdout = f"/proc/{msrun.pid}/fd/1"
        if not stat.S_ISREG(os.stat(stdout).st_mode):
            return os.open(stdout, os.O_WRONLY | os.O_APPEND)
    return os.open(log, os.O_WRONLY | os.O_APPEND)


if __name__ == "__main__":
    main()
