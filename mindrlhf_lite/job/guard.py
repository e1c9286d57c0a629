"""Watches the processes that one msrun started, and ends all of them when one fails, so that nobody waits for the dead.

msrun itself notices a dead rank only by its exit code, once a second, kills the others and then waits (up to 30 s) for
its scheduler; when msrun is ended by a signal its ranks live on. `mindrlhf_lite.job` starts this guard together with
msrun; where msrun is started by hand, the first rank of a host does, before it imports anything heavy. The guard says
on msrun's stdout, in one line, which rank ended how and how to go on; ranks that fail say why themselves.

On several hosts each has a guard of its own (`other_hosts`).

The exit status of msrun is then that of a killed process. `mindrlhf_lite.job` (which the scripts use) gives exact ones:
it reads them from the file named in MINDRLHF_JOB_STATUS.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import stat
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from mindrlhf_lite.commands.resume_hint import ResumeHint
from mindrlhf_lite.commands.signals import listen_to_signals_again
from mindrlhf_lite.commands.tool import FAILED, USER_ERROR
from mindrlhf_lite.files.text_file import read_text, write_text
from mindrlhf_lite.job.guarded_rank import hint_file
from mindrlhf_lite.job.members import TOGETHER_S, UNKNOWN, UNSEEN, Members
from mindrlhf_lite.job.other_hosts import OtherHosts, tell_other_hosts
from mindrlhf_lite.job.processes import Process
from mindrlhf_lite.job.verdict import verdict

STATUS_VARIABLE = "MINDRLHF_JOB_STATUS"
_POLL_S, _TAIL_S, _SIBLINGS_S = 0.1, 0.3, 10.0
_PIDFD_GETFD = 438  # Linux 5.6, all architectures
_INTERRUPTED = 130
_MSRUN_ENDED = "stopped: msrun was ended"


@dataclass
class Guard:
    """Of the processes of one msrun. `log`: where the first rank writes; the others' logs lie beside it."""

    msrun: Process
    log: Path
    console: int  # file descriptor
    members: Members = field(init=False)
    _hint: ResumeHint | None = None
    _other_hosts: OtherHosts = field(default_factory=OtherHosts)

    def __post_init__(self) -> None:
        self.members = Members(self.msrun, self.log)

    def watch(self) -> None:
        """Returns when the job is over and nothing of it is left."""
        while True:
            self.members.wait()
            self.members.find()
            self.members.read_codes()
            if self.members.failed:
                return self._fail()
            if (folder := self._folder_of_hosts) and (news := self._other_hosts.news(folder)):
                self.msrun.end(signal.SIGTERM)
                return self._end(FAILED, f"stopped: {news}", is_news=False)
            if not self.msrun.is_alive():
                if any(member.code is None for member in self.members.ranks):
                    return self._end(_INTERRUPTED, self._reason() or _MSRUN_ENDED)
                return self._clear()

    @property
    def _folder_of_hosts(self) -> Path | None:
        """The run's folder, where other hosts have ranks of it too; None until it is known."""
        here = sum(member.rank != UNKNOWN for member in self.members.ranks)
        has_others = int(os.environ.get("MS_WORKER_NUM", "1")) > here
        return Path(self.hint.output_dir) if self.hint is not None and has_others else None

    @property
    def hint(self) -> ResumeHint | None:
        """What the first rank has left (`tell_guard`)."""
        if self._hint is None:
            with contextlib.suppress(OSError, ValueError, TypeError):
                self._hint = ResumeHint(**json.loads(read_text(hint_file(self.log))))
        return self._hint

    def _fail(self) -> None:
        """Something ended that should not: finds out what, ends msrun before it does more, and the rest after it."""
        time.sleep(TOGETHER_S)
        self.members.read_codes()
        failed = self.members.failed
        if not self.msrun.is_alive() and all(member.code in (-signal.SIGKILL, UNSEEN) for member in failed):
            self._end(_INTERRUPTED, self._reason() or _MSRUN_ENDED)  # its scheduler goes with it
            return
        if all(member.code == -signal.SIGKILL for member in failed) and self.members.scheduler_ends_too():
            # after Ctrl-C msrun kills everything at once, which takes large processes a while
            self.msrun.end(signal.SIGTERM)  # before it ends by itself, as if all were well
            deadline = time.monotonic() + _TAIL_S
            while time.monotonic() < deadline and not self.members.all_are_dead():
                time.sleep(TOGETHER_S)
            # a rank that is alone on its host may just have been killed
            num_ended_now = sum(member.was_alive for member in self.members.found.values())
            if self.members.all_are_dead() and (num_ended_now > 1 or self._reason()):
                self._end(_INTERRUPTED, "interrupted")
                return
        if all(member.code == USER_ERROR for member in failed):  # found by every rank, said by the first
            deadline = time.monotonic() + _SIBLINGS_S
            while time.monotonic() < deadline and not self.members.have_said_why():
                time.sleep(_POLL_S)
        self.msrun.end(signal.SIGTERM)
        self._end(*verdict(self.members))

    def _end(self, code: int, message: str, is_news: bool = True) -> None:
        """Ends everything, says `message` and how to go on. is_news: other hosts are to hear it."""
        if is_news and (folder := self._folder_of_hosts):
            tell_other_hosts(folder, message)
        for member in self.members.found.values():
            member.process.end(is_group=member.rank is not None)
        time.sleep(_TAIL_S)  # what ranks said last is on its way through tail
        can_go_on = code != USER_ERROR and hint_file(self.log).is_file()
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
        for tail in self.members.tails.values():
            tail.end()


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
