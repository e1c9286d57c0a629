"""The processes of environments, as the run sees them: asked without waiting, heard as they answer, ended when they
take too long.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import subprocess
import threading
import time
from collections import deque
from dataclasses import dataclass, field

from mindrlhf_lite.commands.own_python import module_command
from mindrlhf_lite.episodes.environment import Task
from mindrlhf_lite.episodes.messages import ORDER, SPEC, Answer, Ask, receive, send
from mindrlhf_lite.episodes.nursery import PACKET
from mindrlhf_lite.episodes.registry import EnvironmentSpec
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.files.waiting import readable
from mindrlhf_lite.files.wire import BadMessage, from_bytes, to_bytes
from mindrlhf_lite.job.key import KEY_VARIABLE
from mindrlhf_lite.rewards.verifier_worker import pass_on

START_SECONDS = 120.0  # importing a user's module may be slow on a busy machine
_DEAF_SECONDS = 2.0  # a run that has not listened for so long was busy (compiling), or stopped: that does not count
_ENDING_SECONDS = 3.0


@dataclass
class _Living:
    connection: socket.socket
    deadlines: deque[float] = field(default_factory=deque)  # of what it was asked and has not answered
    must_end: float = 0.0  # when, where it was told to close


class EnvironmentHost:
    """Environments by number. Example: host.begin(3, task, seed); host.step(3, "4", "stop"); host.take(waits=True)

    Args: timeout_s: for a reset, and for a step.

    Raises:
        ValueError: the environment cannot be imported or made.
    """

    def __init__(self, spec: EnvironmentSpec, timeout_s: float):
        self.spec, self.timeout_s = spec, timeout_s
        self._living: dict[int, _Living] = {}
        self._streams = selectors.DefaultSelector()
        self._failed: list[tuple[int, Answer]] = []  # found while they were asked
        self._listened = time.monotonic()  # when last
        self._control, others = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with others:
            # in a session of its own: Ctrl-C is for the run
            self._nursery = subprocess.Popen(
                module_command("mindrlhf_lite.episodes.nursery"),
                stdin=others.fileno(),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={name: value for name, value in os.environ.items() if name != KEY_VARIABLE},
            )
        threading.Thread(target=pass_on, args=(self._nursery.stdout,), daemon=True).start()
        self._control.settimeout(START_SECONDS)
        try:
            self._control.send(to_bytes(spec, SPEC))
            problem = from_bytes(self._control.recv(PACKET), str | None)
        except (OSError, BadMessage):
            problem = "its process died, or did not start"
        if problem is not None:
            self.close()
            raise UserError(f"environment {spec.name!r}: {problem}")

    @property
    def pid(self) -> int:
        """Of the nursery's keeper."""
        return self._nursery.pid

    def begin(self, number: int, task: Task, seed: int) -> None:
        """A new environment, which is reset."""
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            raise UserError(
                f"{len(self._living)} environments are at work, and there is no room for another ({error}); raise the "
                "limit of open files (ulimit -n), or lower generate_config.max_num_seqs"
            ) from None
        self._living[number] = _Living(ours)
        self._streams.register(ours, selectors.EVENT_READ, number)
        with theirs:
            try:
                socket.send_fds(self._control, [to_bytes((number, False), ORDER)], [theirs.fileno()])
            except OSError:
                self._fail(number, "exit: the process that environments are forked from has ended")
                return
        self._ask(number, Ask(task=task, seed=seed))

    def step(self, number: int, text: str, finish_reason: str) -> None:
        """Nothing, where it has failed meanwhile: `take` says so."""
        if number in self._living and not self._living[number].must_end:
            self._ask(number, Ask(text=text, finish_reason=finish_reason))

    def end(self, number: int) -> None:
        """The episode is over: the environment closes, and is ended if that takes too long."""
        if (living := self._living.get(number)) is not None:
            living.deadlines.clear()
            living.must_end = time.monotonic() + self.timeout_s
            with contextlib.suppress(OSError):
                living.connection.shutdown(socket.SHUT_WR)

    def take(self, waits: bool) -> list[tuple[int, Answer]]:
        """What was answered. Args: waits: until there is something, or nobody is asked."""
        while True:
            self._forgive(time.monotonic() - self._listened)
            found, self._failed = self._failed, []
            is_asked = self._is_asked
            seconds = 0.0 if found or not waits else self._seconds_left()
            ready, overslept = readable(self._streams, seconds)
            self._forgive(overslept)
            for number in ready:
                found += self._hear(number)
            self._end_late_ones()
            self._listened = time.monotonic()
            if found or self._failed:
                failed, self._failed = self._failed, []
                return sorted([*found, *failed], key=lambda pair: pair[0])
            if not waits or not is_asked:
                return []

    @property
    def _is_asked(self) -> bool:
        """Whether an answer is still to come."""
        return any(living.deadlines for living in self._living.values())

    def _forgive(self, seconds: float) -> None:
        """Nobody listened for so long; where this process was stopped, or took all processors, so were they."""
        for living in self._living.values() if seconds > _DEAF_SECONDS else ():
            living.deadlines = deque(deadline + seconds for deadline in living.deadlines)

    def close(self) -> None:
        """Ends all environments, with what they have started."""
        for living in self._living.values():
            living.connection.close()
        self._living.clear()
        self._streams.close()
        self._control.close()
        self._nursery.terminate()  # its keeper ends all that it has started
        try:
            self._nursery.wait(_ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            self._nursery.kill()
            self._nursery.wait()

    def _ask(self, number: int, ask: Ask) -> None:
        living, now = self._living[number], time.monotonic()
        if not self._is_asked:  # what was before is nobody's time
            self._listened = now
        living.deadlines.append(now + self.timeout_s)
        living.connection.settimeout(self.timeout_s)
        try:
            send(living.connection, ask, Ask)
        except OSError as error:
            self._fail(number, f"exit: its process takes no questions ({type(error).__name__})")

    def _hear(self, number: int) -> list[tuple[int, Answer]]:
        living = self._living[number]
        try:
            answer: Answer = receive(living.connection, Answer)
        except (EOFError, OSError, BadMessage) as error:
            self._forget(number)
            problem = "its process ended" if isinstance(error, EOFError | ConnectionError) else "no message came of it"
            # one that was told to close may end; one that nobody asks may not
            return [] if living.must_end else [(number, Answer(problem=f"exit: {problem}"))]
        if not living.deadlines:  # it was told to close, or speaks out of turn
            return []
        living.deadlines.popleft()
        if answer.problem:
            self.end(number)
        return [(number, answer)]

    def _end_late_ones(self) -> None:
        now = time.monotonic()
        for number, living in list(self._living.items()):
            if living.deadlines and now > living.deadlines[0]:
                self._fail(number, f"timeout: no answer within {self.timeout_s:g} s")
            elif living.must_end and now > living.must_end:
                self._forget(number)

    def _seconds_left(self) -> float:
        ends = [time for living in self._living.values() for time in (*living.deadlines, living.must_end) if time]
        return max(0.0, min(ends, default=0.0) - time.monotonic()) + 0.001

    def _fail(self, number: int, problem: str) -> None:
        self._forget(number)
        self._failed.append((number, Answer(problem=problem)))

    def _forget(self, number: int) -> None:
        living = self._living.pop(number)
        self._streams.unregister(living.connection)
        living.connection.close()
        with contextlib.suppress(OSError):
            self._control.send(to_bytes((number, True), ORDER))
