"""Watches the processes that one msrun started, and ends all of them when one fails, so that nobody waits for the dead.

msrun itself notices a dead rank only by its exit code, once a second, kills the others and then waits (up to 30 s) for
its scheduler; when msrun is ended by a signal its ranks live on. The first rank of a host starts this guard in a
session of its own before it imports anything heavy. The guard says on msrun's stdout, in one line, which rank ended how
and how to go on; ranks that fail say why themselves.

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

from mindrlhf_lite.job import SECOND_NODE_VARIABLE
from mindrlhf_lite.job.processes import Process
from mindrlhf_lite.job.resume import ResumeHint
from mindrlhf_lite.job.signals import listen_to_signals_again
from mindrlhf_lite.job.whereabouts import last_noted
from mindrlhf_lite.own_python import module_command
from mindrlhf_lite.text_file import write_text

STATUS_VARIABLE = "MINDRLHF_JOB_STATUS"
_POLL_S, _TOGETHER_S, _TAIL_S, _SIBLINGS_S = 0.1, 0.01, 0.3, 10.0
_NEWS, _NEWS_S = ".ended_on_a_host", 1.0
_PIDFD_GETFD = 438  # Linux 5.6, all architectures
_USER_ERROR, _FAILED, _INTERRUPTED = 2, 1, 130
_UNSEEN = 256  # no exit code: one that nobody can tell any more


def start_guard() -> subprocess.Popen[bytes] | None:
    """Starts the guard of this host's ranks, if this process is the first of them. It listens on its stdin for
    `tell`.
    """
    if os.environ.get("MS_ROLE") != "MS_WORKER" or os.environ.get("DEVICE_ID") != "0":
        return None
    command = [*module_command("mindrlhf_lite.job.guard"), str(os.getppid()), os.path.realpath("/proc/self/fd/1")]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)


def tell(guard: subprocess.Popen[bytes] | None, hint: ResumeHint) -> None:
    """Gives the guard what to say about going on."""
    if guard is not None and guard.stdin is not None:
        guard.stdin.write(json.dumps(hint.as_dict()).encode() + b"\n")
        guard.stdin.flush()


@dataclass
class _Member:
    process: Process
    rank: int | None  # None: the scheduler
    was_alive: bool = True  # when it was found
    code: int | None = None  # once it ended
    was_asked_by_msrun: bool = False  # for this code, before the guard could: the first that failed, as msrun saw it


@dataclass
class Guard:
    """The processes of one msrun. `log`: where the first rank writes; the others' logs lie beside it."""

    msrun: Process
    log: Path
    console: int  # file descriptor
    hint: ResumeHint | None = None
    members: dict[int, _Member] = field(default_factory=dict)
    tails: dict[int, Process] = field(default_factory=dict)
    _old_news: int | None = None  # when the file was written that was there before this job; 0: there was none
    _next_look: float = 0.0
    _handles: dict[int, int] = field(default_factory=dict)  # of processes, by their number: readable once they end

    def watch(self) -> None:
        """Returns when the job is over and nothing of it is left."""
        started = time.monotonic()
        while True:
            self._wait()
            if time.monotonic() - started < _SIBLINGS_S:
                self._find_members()
            self._read_codes()
            if any(member.code for member in self.members.values()):
                return self._fail()
            if news := self._news():
                self.msrun.end(signal.SIGTERM)
                return self._end(_FAILED, f"stopped: {news}", is_news=False)
            if not self.msrun.is_alive():
                if any(member.code is None for member in self._ranks):
                    return self._end(_INTERRUPTED, self._reason() or "stopped: msrun was ended")
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
        return int(os.environ.get("MS_WORKER_NUM", "1")) > len(self._ranks)

    @property
    def _ranks(self) -> list[_Member]:
        return [member for member in self.members.values() if member.rank is not None]

    def _wait(self) -> None:
        """Returns at once when a process ends or the first rank says something, else after a moment."""
        listens = [0] if self.hint is None else []
        ready, _, _ = select.select([*self._handles.values(), *listens], [], [], _POLL_S)
        for pid in [pid for pid, handle in self._handles.items() if handle in ready]:
            os.close(self._handles.pop(pid))
        if 0 in ready:
            line = sys.stdin.buffer.readline()
            if line:
                self.hint = ResumeHint(**json.loads(line))
            else:
                time.sleep(_POLL_S)  # it ended, or has nothing to say

    def _find_members(self) -> None:
        for child in self.msrun.children():
            if child.name == "tail":
                self.tails[child.pid] = child
            elif child.pid not in self.members:
                environment = child.environment()
                if environment.get("MS_ROLE") == "MS_WORKER":
                    self.members[child.pid] = _Member(child, int(environment.get("RANK_ID", "0")))
                elif os.environ.get(SECOND_NODE_VARIABLE):
                    continue  # its scheduler ends at once: the first node's, on the same host, serves both
                elif (
                    environment.get("MS_ROLE") == "MS_SCHED" or not child.is_alive()
                ):  # what ended before we looked has no environment: the scheduler
                    self.members[child.pid] = _Member(child, None, child.is_alive())
                else:
                    continue
                with contextlib.suppress(OSError):  # it ended, or an old kernel: polling sees it a little later
                    self._handles[child.pid] = os.pidfd_open(child.pid)

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
        with contextlib.suppress(OSError):
            stderr = Path(f"/proc/{self.msrun.pid}/fd/2")
            if stat.S_ISREG(stderr.stat().st_mode):
                pattern = rf"Worker process {member.process.pid} exit with exception\. Error code: (-?\d+)"
                if found := re.search(pattern, stderr.read_text(encoding="utf-8", errors="replace")):
                    return int(found[1])
        log = self._log_of(member)
        if _error_lines(log):
            return _FAILED
        return _UNSEEN if last_noted(log) else 0

    def _fail(self) -> None:
        """Something ended that should not: finds out what, ends msrun before it does more, and the rest after it."""
        time.sleep(_TOGETHER_S)
        self._read_codes()
        failed = [member for member in self.members.values() if member.code]
        if all(
            member.code == -signal.SIGKILL for member in failed
        ):  # after Ctrl-C msrun kills everything at once, which takes large processes a while
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
        name, log = "the scheduler" if cause.rank is None else f"rank {cause.rank}", self._log_of(cause)
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
        stem = self.log.stem.rpartition("_")[0] or self.log.stem
        return self.log.with_name(f"{stem}_{member.rank}{self.log.suffix}")

    def _end(self, code: int, message: str, is_news: bool = True) -> None:
        """Ends everything, says `message` and how to go on. is_news: other hosts are to hear it."""
        if is_news:
            self._tell_other_hosts(message)
        for member in self.members.values():
            member.process.end(is_group=member.rank is not None)
        time.sleep(_TAIL_S)  # what ranks said last is on its way through tail
        hint = self.hint.text() if self.hint and code != _USER_ERROR else ""
        text = "; ".join(filter(None, (message, hint)))
        if text:
            self._say(text)
        if path := os.environ.get(STATUS_VARIABLE):
            write_text(path, f"{code}\n")
        self.msrun.end(signal.SIGTERM)
        self._clear()

    def _reason(self) -> str:
        """Why `mindrlhf_lite.job` ended msrun, if it did."""
        path = os.environ.get(STATUS_VARIABLE)
        return Path(path).read_text(encoding="utf-8").strip() if path and Path(path).is_file() else ""

    def _say(self, text: str) -> None:
        with contextlib.suppress(OSError):  # nobody listens any more
            os.write(self.console, f"\n{text}\n".encode())
            time.sleep(_TAIL_S)

    def _clear(self) -> None:
        """Ends what followed the ranks' logs."""
        for tail in self.tails.values():
            tail.end()


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
