"""A user's verifiers, some of them broken, for test_runner.py."""

import os
import subprocess
import sys
import time

from mindrlhf_lite.rewards import verifier
from mindrlhf_lite.types import Outcome, Score


@verifier(minimum=0.0, maximum=100.0)
def length_reward(completion, gold):
    return len(completion.text)


def partial_credit(completion, gold):
    return {"full": 1.0, "near": 0.3}.get(completion.text, 0.0)


def says_what_is_correct(completion, gold):
    return Score(0.5, Outcome.CORRECT if completion.text == "a" else Outcome.WRONG)


def sums_up_to_one(completion, gold):
    return sum([0.1] * 10)


def sees_everything(completion, gold):
    return (
        completion.num_tokens == 7
        and completion.finish_reason == "length"
        and completion.prompt == "p"
        and completion.source == "s"
        and gold == "g"
    )


def sees_its_question(completion, gold):
    return completion.prompt == "p" and completion.source == "sums" and completion.num_tokens > 0


def waits_for_its_children(completion, gold):
    subprocess.Popen(["true"])
    while True:
        try:
            os.wait()
        except ChildProcessError:
            return 1.0


def exits(completion, gold):
    sys.exit(3)


def raises_on_bad(completion, gold):
    if "bad" in completion.text:
        raise KeyError("boom")
    print("noise on stdout")
    return 1.0


def prints(completion, gold):
    print(completion.text, flush=True)
    return 1.0


@verifier(minimum=-1.0, maximum=1.0)
def punishes(completion, gold):
    if "bad" in completion.text:
        raise KeyError("boom")
    return -0.5


def hangs_on_bad(completion, gold):
    while "bad" in completion.text:
        time.sleep(1)
    return 1.0


def spins_on_bad(completion, gold):
    while "bad" in completion.text:
        pass
    return 1.0


def hangs_with_a_child(completion, gold):
    """The child may be in a session of its own, and nobody's: what started it has ended."""
    started = 'import os, time; print(os.getpid(), file=open({!r}, "w"), flush=True); time.sleep(1000)'
    command, session = [sys.executable, "-c", started.format(os.environ["CHILD_FILE"])], {"start_new_session": True}
    if completion.text == "a daemon":
        between = "import subprocess, sys; subprocess.Popen(sys.argv[1:], start_new_session=True, env={})"
        subprocess.run([sys.executable, "-c", between, *command], check=True)
    else:
        subprocess.Popen(command, **(session if completion.text == "a session" else {}))
    time.sleep(1000)


def answers_twice_on_bad(completion, gold):
    if "bad" in completion.text:
        os.fork()
    return 1.0


def of_three(a, b, c):
    return 1.0


def dies_on_bad(completion, gold):
    if "bad" in completion.text:
        os._exit(3)
    return 1.0


def returns_nan(completion, gold):
    return float("nan")


def returns_too_much(completion, gold):
    return 2.0


def of_lists(completions, golds):
    return [1.0 for _ in completions]


def of_one(completion):
    return 1.0


def waits(completion, gold):
    time.sleep(1.5)
    return 1.0


def adds_tokens(reward, completion):
    return reward + completion.num_tokens


def shapes_to_nan(reward, completion):
    return float("nan")


def cannot_shape(reward, completion):
    return reward / 0


@verifier(minimum=0.0, maximum=1e308)
def huge_reward(completion, gold):
    return 1e308


def shapes_to_1e300(reward, completion):
    return 1e300
