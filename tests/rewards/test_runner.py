"""Verifiers in their processes: user functions, failures, hangs."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT

from mindrlhf_lite.job.processes import Process
from mindrlhf_lite.rewards.runner import GIVE_UP_AFTER, RewardFunction, VerifierProcess
from mindrlhf_lite.types import Outcome, Score


@pytest.fixture(autouse=True)
def beside_user_verifiers(monkeypatch):
    """Workers import user modules from the working folder."""
    monkeypatch.chdir(Path(__file__).parent)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def scores(name, texts, timeout_s=10.0):
    process = VerifierProcess(name, timeout_s)
    try:
        return [process.score(text, "1") for text in texts]
    finally:
        process.close()


def test_a_users_function_by_dotted_path():
    assert scores("user_verifiers.length_reward", ["abc", ""]) == [Score(3.0, Outcome.CORRECT), Score(0.0, Outcome.WRONG)]


def test_an_exception_costs_one_completion(capfd):
    assert [s.outcome for s in scores("user_verifiers.raises_on_bad", ["a", "bad", "b"])] == [Outcome.CORRECT, Outcome.ERROR, Outcome.CORRECT]
    assert "KeyError: 'boom'" in capfd.readouterr().err


def test_a_hang_is_cut_off_and_the_run_goes_on():
    start = time.monotonic()
    results = scores("user_verifiers.hangs_on_bad", ["a", "bad", "b"], timeout_s=1.0)
    assert [s.outcome for s in results] == [Outcome.CORRECT, Outcome.TIMEOUT, Outcome.CORRECT]
    assert time.monotonic() - start < 60


def test_a_verifier_that_dies_is_restarted():
    assert [s.outcome for s in scores("user_verifiers.dies_on_bad", ["a", "bad", "b"])] == [Outcome.CORRECT, Outcome.ERROR, Outcome.CORRECT]


def test_nan_is_an_error_not_zero_reward():
    assert scores("user_verifiers.returns_nan", ["a"])[0].outcome is Outcome.ERROR


def test_no_process_is_left_behind():
    process = VerifierProcess("accuracy_reward", 10)
    pid = process._process.pid
    process.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_weighted_sum_and_outcomes():
    reward = RewardFunction(["format_reward", "accuracy_reward"], [0.5, 2.0], 10)
    result = reward.score(["<think></think><answer>4</answer>", "4", "none"], ["4", "4", "4"])
    np.testing.assert_array_equal(reward.rewards(result), np.float32([2.5, 2.0, 0.0]))
    assert [o.value for o in reward.outcomes(result)] == ["correct", "correct", "unparsed"]  # of accuracy, not of format
    result["format_reward"][1] = Score(0.0, Outcome.TIMEOUT)  # but a failure of any verifier is counted
    assert [o.value for o in reward.outcomes(result)] == ["correct", "timeout", "unparsed"]
    assert reward.correct(result) == [True, True, False]
    reward.close()


def test_failures_are_reported_once_a_batch_by_kind(capfd):
    reward = RewardFunction(["user_verifiers.raises_on_bad", "user_verifiers.dies_on_bad"], [1.0, 1.0], 10)
    reward.score(["bad", "a", "bad", "bad"], ["1", "2", "3", "4"])
    lines = capfd.readouterr().err.splitlines()
    reward.close()
    assert [line for line in lines if line.startswith("verifier ")] == [
        "verifier user_verifiers.raises_on_bad failed on 3 of 4 completions: KeyError: 'boom' (gold '1')",
        "verifier user_verifiers.dies_on_bad failed on 3 of 4 completions: exit: its process ended with code 3 (gold '1')",
    ]


def test_a_time_out_is_said(capfd):
    scores("user_verifiers.hangs_on_bad", ["bad"], timeout_s=0.5)
    assert "verifier user_verifiers.hangs_on_bad failed on 1 of 1 completions: timeout: no score within 0.5 s" in capfd.readouterr().err


def test_a_verifier_that_keeps_failing_ends_the_run():
    reward = RewardFunction(["user_verifiers.raises_on_bad"], [1.0], 10)
    several = [str(number // 8) for number in range(GIVE_UP_AFTER)]
    reward.score(["bad"] * (GIVE_UP_AFTER - 1) + ["good"], several)
    reward.score(["bad"] * 3 * GIVE_UP_AFTER, ["one hard question"] * 3 * GIVE_UP_AFTER)  # not the verifier's fault, perhaps
    reward.score(["good"], ["1"])
    with pytest.raises(ValueError, match="failed on 20 completions in a row, the last time with KeyError: 'boom'"):
        reward.score(["bad"] * GIVE_UP_AFTER, several)
    reward.close()


def test_a_hanging_verifier_ends_with_the_run(tmp_path):
    """Also when the run is killed: the system ends the worker."""
    program = (
        "import os, sys; sys.path.insert(0, sys.argv[1])\n"
        "from mindrlhf_lite.rewards.runner import VerifierProcess\n"
        "process = VerifierProcess('user_verifiers.hangs_on_bad', 60)\n"
        "print(process._process.pid, flush=True)\n"
        "process.score('bad', '1')\n"
    )
    run = subprocess.Popen([sys.executable, "-c", program, str(ROOT)], stdout=subprocess.PIPE, text=True)
    worker = Process.find(int(run.stdout.readline()))
    time.sleep(0.5)
    run.kill()
    run.wait()
    deadline = time.monotonic() + 10
    while worker.is_alive():
        assert time.monotonic() < deadline
        time.sleep(0.05)
