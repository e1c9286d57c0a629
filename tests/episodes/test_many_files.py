"""Environments and verifiers of a run that has more files open than select() takes."""

import sys
from pathlib import Path

from helpers import run

ACTING = str(Path(__file__).with_name("acting.py"))
MANY_FILES = """
import os, sys
from mindrlhf_lite.episodes.environment import Task
from mindrlhf_lite.episodes.host import EnvironmentHost
from mindrlhf_lite.episodes.registry import EnvironmentSpec
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.rewards.pool import VerifierPool
from mindrlhf_lite.types import CompletionView
held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
host = EnvironmentHost(EnvironmentSpec(sys.argv[1] + ":Broken"), 60.0)
host.begin(0, Task(0, "go", "1"), 0)
host.step(0, "fine", "stop")
answers = []
while len(answers) < 2:
    answers += host.take(True)
print(answers[1][1].observation, end="")
pool = VerifierPool(["accuracy_reward"], 60.0, 1)
pool.score([(CompletionView("5"), "5")], lambda place, verdict: print(verdict.score.value))
try:
    while True:
        held.append(os.dup(0))
except OSError:
    pass
try:
    host.begin(1, Task(0, "go", "1"), 0)
except UserError as error:
    print(error)
for descriptor in held:
    os.close(descriptor)
pool.close()
host.close()
"""


def test_more_than_1024_open_files():
    limits = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (2000, 2000))\n"
    result = run([sys.executable, "-c", limits + MANY_FILES, ACTING])
    assert result.stdout.startswith("fine 1.0\n1 environments are at work, and there is no room"), result.stderr
    assert "raise the limit of open files (ulimit -n)" in result.stdout
