"""A process that runs verifiers, as the run sees it: what it is given, what it answers, how it is ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import IO, Any

from mindrlhf_lite.commands.own_python import module_command
from mindrlhf_lite.files.text_file import printable_text
from mindrlhf_lite.job.key import KEY_VARIABLE
from mindrlhf_lite.rewards.verifier_process import LENGTH, ORDER, Task, as_frame
from mindrlhf_lite.types import CompletionView

START_SECONDS = 120.0  # importing a user's module may be slow on a busy machine
_LONGEST_LINE, _RELAY_SECONDS = 1 << 16, 1.0
_ENDING_SECONDS = 3.0


@dataclass
class VerifierWorker:
    process: subprocess.Popen[bytes]
    deadline: float
    relay: threading.Thread  # of what it prints
    is_ready: bool = False
    since: float = 0.0  # when it began what it is at
    tasks: deque[Task] = field(default_factory=deque)  # given and not answered
    received: bytes = b""

    @property
    def stream(self) -> int:
        assert self.process.stdout
        return self.process.stdout.fileno()

    def send(self, value: Any, kind: Any) -> None:
        assert self.process.stdin
        self.process.stdin.write(as_frame(value, kind))
        self.process.stdin.flush()

    def receive(self) -> list[bytes]:
        """What has come, value by value. Raises EOFError if the process has ended."""
        data = os.read(self.stream, 1 << 16)
        if not data:
            raise EOFError
        self.received += data
        values = []
        while len(self.received) >= LENGTH.size:
            (length,) = LENGTH.unpack_from(self.received)
            end = LENGTH.size + length
            if len(self.received) < end:
                break
            values.append(self.received[LENGTH.size : end])
            self.received = self.received[end:]
        return values

    def limit_s(self, timeout_s: float) -> float:
        """Seconds for what it is at: a call for several completions may take as many times as long."""
        return timeout_s * (len(self.tasks[0].numbers) if self.tasks else 1)

    def end(self, has_ended: bool = False) -> str:
        """Kills it with all that it started. Returns how it ended, if it had already (`has_ended`: its stream says so;
        it may take a moment).
        """
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(1.0 if has_ended else 0.0)
        code = self.process.returncode
        self.process.terminate()  # its keeper ends what it has started
        try:
            self.process.wait(_ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.relay.join(_RELAY_SECONDS)  # what it said last
        for stream in (self.process.stdin, self.process.stdout):
            if stream:
                with contextlib.suppress(OSError):  # unflushed bytes to a dead process
                    stream.close()
        if code is None:
            return ""
        return f" by signal {-code}" if code < 0 else f" with code {code}"


def start_worker(names: list[str], trial: tuple[CompletionView, str] | None) -> VerifierWorker:
    """Starts a process, which imports the verifiers, tries them and then says so."""
    # in a session of its own: Ctrl-C is for the run
    process = subprocess.Popen(
        module_command("mindrlhf_lite.rewards.verifier_process"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env={name: value for name, value in os.environ.items() if name != KEY_VARIABLE},
    )
    relay = threading.Thread(target=pass_on, args=(process.stderr,), daemon=True)
    relay.start()
    worker = VerifierWorker(process, time.monotonic() + START_SECONDS, relay)
    with contextlib.suppress(OSError):  # it ended at once: its stream says so
        worker.send((names, trial), ORDER)
    return worker


def pass_on(printed: IO[bytes]) -> None:
    """What verifiers, and what they start, print: completions may be in it, so it is shown as text of others. Past
    sys.stderr, whose lock a thread must not hold when the run ends.
    """
    with printed:
        while line := printed.readline(_LONGEST_LINE):
            with contextlib.suppress(OSError):  # nobody listens: what is printed is taken all the same
                os.write(2, f"{printable_text(line.decode(errors='replace').rstrip())}\n".encode())
