"""A user's verifiers, some of them broken, for test_runner.py."""

import os
import time


def length_reward(completions, golds):
    return [len(text) for text in completions]


def raises_on_bad(completions, golds):
    if "bad" in completions[0]:
        raise KeyError("boom")
    print("noise on stdout")
    return [1.0]


def hangs_on_bad(completions, golds):
    while "bad" in completions[0]:
        time.sleep(1)
    return [1.0]


def dies_on_bad(completions, golds):
    if "bad" in completions[0]:
        os._exit(3)
    return [0.5]


def returns_nan(completions, golds):
    return [float("nan")]
