"""Environments of tests, each odd in its own way."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from mindrlhf_lite.episodes import Environment, Step


class Echo(Environment):
    """Says what it was told, its task and its seed, after `delay` seconds."""

    def __init__(self, delay=0.0, turns=3, folder=""):
        self.delay, self.turns, self.folder = delay, turns, folder

    def reset(self, task, seed):
        self.task, self.seed, self.count = task, seed, 0

    def step(self, action):
        time.sleep(self.delay * (self.seed % 3))
        self.count += 1
        text = f"{self.count} {len(action.text)} {self.task.gold} {self.seed % 97} "
        return Step(text, reward=len(action.text) % 2, done=self.count == self.turns, info={"solved": True})

    def close(self):
        if self.folder:
            (Path(self.folder) / str(os.getpid())).touch()


class Broken(Environment):
    """Fails as the action's text says; a task whose gold is "no" cannot be begun."""

    def reset(self, task, seed):
        if task.gold == "no":
            raise RuntimeError("no such task")

    def step(self, action):
        how = action.text
        if how == "raise":
            raise RuntimeError("no luck \u4f60\x1b[31m")
        if how == "exit":
            sys.exit(3)
        if how == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "die later":
            threading.Timer(0.1, os._exit, (1,)).start()
        if how == "hang":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            while True:
                time.sleep(1)
        if how == "fork" and not os.fork():
            return Step("from the child")
        if how == "start":
            subprocess.Popen(["sleep", "1000"])
        if how == "memory":
            return Step("x" * len(bytearray(1 << 31)))
        if how == "nothing":
            return Step()
        if how == "dictionary":
            return {"messages": "text"}
        if how == "messages":
            return Step([{"role": "user"}])
        if how == "reward":
            return Step("text", reward=float("nan"))
        if how == "info":
            return Step("text", info={"path": Path("here")})
        print("printed by an environment")
        return Step("fine ")


class Different(Environment):
    """Opens the episodes of one task in different ways."""

    def reset(self, task, seed):
        return f"{seed % 9}="


class Speaks(Environment):
    """In messages. Args: opens: it asks in messages too."""

    def __init__(self, opens=False):
        self.opens, self.count = opens, 0

    def reset(self, task, seed):
        return [{"role": "user", "content": "begin"}] if self.opens else None

    def step(self, action):
        self.count += 1
        return Step([{"role": "user", "content": "go on"}], done=self.count == 3)


class Sometimes(Environment):
    """Fails where its seed says so."""

    def reset(self, task, seed):
        self.fails = seed % 4 == 0

    def step(self, action):
        if self.fails:
            raise OSError("the service is down")
        return Step(reward=len(action.text) % 3, done=True)


def no_environment():
    """A function."""
