"""Verifiers in their processes: user functions, failures, hangs."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from mindrlhf_lite.rewards.runner import RewardFunction, VerifierProcess
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
