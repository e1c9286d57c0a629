"""What a run and the processes of its environments tell one another."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from typing import Any

from mindrlhf_lite.episodes.environment import Task
from mindrlhf_lite.episodes.registry import EnvironmentSpec
from mindrlhf_lite.files.wire import from_bytes, to_bytes

LENGTH = struct.Struct("<I")
MOST_BYTES = 16 << 20  # of a message

# to the nursery, in packets: the spec first, then (number of an environment, whether it is to end); a birth brings a
# socket
SPEC, ORDER = EnvironmentSpec, tuple[int, bool]


@dataclass(frozen=True)
class Ask:
    """To an environment. Example: Ask(task=Task(0, "guess", "5"), seed=7); Ask(text="4", finish_reason="stop")"""

    task: Task | None = None  # of a reset
    seed: int = 0
    text: str = ""  # of a step
    finish_reason: str = ""


@dataclass(frozen=True)
class Answer:
    """Of an environment. Example: Answer("higher\\n"), Answer(problem="ValueError: ..")"""

    observation: Any = None  # a text, messages, or None
    reward: float = 0.0
    done: bool = False
    info: Any = None  # a JSON object
    num_calls: int = 0
    num_malformed: int = 0
    seconds: float = 0.0
    problem: str = ""  # what went wrong: then the environment is not asked again


def send(connection: socket.socket, value: Any, kind: Any) -> None:
    """Raises OSError: nobody listens, or it takes too long."""
    data = to_bytes(value, kind)
    connection.sendall(LENGTH.pack(len(data)) + data)


def receive(connection: socket.socket, kind: Any) -> Any:
    """The next value. Raises EOFError at the end, BadMessage where it is none."""
    (length,) = LENGTH.unpack(_exactly(connection, LENGTH.size))
    if length > MOST_BYTES:
        raise EOFError
    return from_bytes(_exactly(connection, length), kind)


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:
            raise EOFError
        data += part
    return data
