"""The process that environments are forked from: it has imported what they need, so that a new one costs milliseconds.

Every episode has a process of its own, with a limit of memory, and a socket to the run. The nursery only forks and
ends them. Its keeper (rewards/keeper.py) ends it, and all that environments have started, when the run ends, however.
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import select
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from mindrlhf_lite.commands.signals import listen_to_signals_again
from mindrlhf_lite.episodes.calls import find_calls
from mindrlhf_lite.episodes.environment import Action, Environment, Step
from mindrlhf_lite.episodes.messages import ORDER, SPEC, Answer, Ask, receive, send
from mindrlhf_lite.episodes.registry import EnvironmentSpec, maker_of
from mindrlhf_lite.files.text_file import let_console_show_anything, printable
from mindrlhf_lite.files.wire import BadMessage, from_bytes, to_bytes
from mindrlhf_lite.job.lifelines import die_with_parent
from mindrlhf_lite.rewards.keeper import go_on_in_a_child
from mindrlhf_lite.types import FinishReason

PACKET = 1 << 17  # bytes of an order, at most
_REAP_S = 0.5


def main() -> None:
    listen_to_signals_again()
    go_on_in_a_child()
    control = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    let_console_show_anything()
    try:
        spec: EnvironmentSpec = from_bytes(control.recv(PACKET), SPEC)
        make = maker_of(spec)
        make().close()
        problem = None
    except Exception as error:  # a user's constructor may raise anything
        problem = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
    control.send(to_bytes(problem, str | None))
    if problem is None:
        _serve(control, spec, make)


def _serve(control: socket.socket, spec: EnvironmentSpec, make: Callable[[], Environment]) -> None:
    """Until the run closes its end."""
    gc.freeze()  # else each child copies the pages that its collections touch
    children: dict[int, int] = {}  # number of an environment: its process
    while True:
        ready, _, _ = select.select([control], [], [], _REAP_S)
        _reap(children)
        if not ready:
            continue
        message, descriptors, _, _ = socket.recv_fds(control, PACKET, 1)
        if not message:
            return
        number, is_to_end = from_bytes(message, ORDER)
        if is_to_end:
            if (pid := children.get(number)) is not None:
                with contextlib.suppress(OSError):
                    os.killpg(pid, signal.SIGKILL)
            continue
        connection = socket.socket(fileno=descriptors[0])
        if not (pid := os.fork()):
            control.close()
            _live(connection, spec, make)
        with contextlib.suppress(OSError):  # it may have done so itself, or be over
            os.setpgid(pid, pid)
        children[number] = pid
        connection.close()


def _reap(children: dict[int, int]) -> None:
    for number, pid in list(children.items()):
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            continue
        with contextlib.suppress(
            OSError
        ):  # what it has started and left; its number is nobody else's before it is reaped
            os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        del children[number]


def _live(connection: socket.socket, spec: EnvironmentSpec, make: Callable[[], Environment]) -> NoReturn:
    """One episode."""
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)
    die_with_parent()
    _limit_memory(spec.memory_bytes)
    environment: Environment | None = None
    try:
        with contextlib.suppress(EOFError, BrokenPipeError, ConnectionError, BadMessage):
            while True:
                ask: Ask = receive(connection, Ask)
                started, ours = time.perf_counter(), os.getpid()
                try:
                    if environment is None:
                        environment = make()
                    answer = _answer_of(environment, ask, spec)
                except BaseException as error:  # an environment may raise anything, or even exit
                    answer = {"problem": f"{type(error).__name__}: {printable(str(error)[:500])}"}
                if os.getpid() != ours:  # a child that the environment forked, and that came back here
                    break
                send(connection, Answer(**answer, seconds=time.perf_counter() - started), Answer)
        if environment is not None:
            environment.close()
    except BaseException:  # closing may raise anything too: the episode is over all the same
        os._exit(1)
    os._exit(0)


def _limit_memory(num_bytes: int) -> None:
    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = used + num_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit if most == resource.RLIM_INFINITY else min(limit, most), most))


def _answer_of(environment: Environment, ask: Ask, spec: EnvironmentSpec) -> dict[str, Any]:
    """Fields of an Answer. Raises what the environment raises, and TypeError where it returns something else."""
    if ask.task is not None:
        opening = environment.reset(ask.task, ask.seed)
        return {"observation": None if opening is None else _observation(opening)}
    calls = find_calls(ask.text, spec.call_format)
    step = environment.step(Action(ask.text, calls, FinishReason(ask.finish_reason)))
    if not isinstance(step, Step):
        raise TypeError(f"step() returned {step!r:.100}, a Step is needed")
    reward, info = float(step.reward), dict(step.info)
    if not -1e30 < reward < 1e30:
        raise ValueError(f"the reward {reward}")
    observation = _observation(step.messages)
    if not observation and not step.done:
        raise ValueError("step() returned no messages, and the episode is not done")
    malformed = info.pop("malformed", sum(bool(call.problem) for call in calls))
    to_bytes(info, Any)  # raises where it is no JSON
    numbers = {"num_calls": len(calls), "num_malformed": malformed}
    return {"observation": observation, "reward": reward, "done": bool(step.done), "info": info, **numbers}


def _observation(value: Any) -> Any:
    if isinstance(value, str):
        return value
    messages = list(value)
    for message in messages:
        texts = [message.get("role"), message.get("content")] if isinstance(message, dict) else [None]
        if not all(isinstance(text, str) for text in texts):
            raise TypeError(f"{message!r:.100} is no message: a text, or {{'role': .., 'content': ..}} are needed")
    return messages


if __name__ == "__main__":
    main()
