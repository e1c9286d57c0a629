"""Verifiers that hang, die, or start processes: each costs its own completion, and nothing is left behind."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import ROOT, clean_environment
from rewards.scoring import scores

from mindrlhf_lite.job.processes import Process
from mindrlhf_lite.rewards.pool import VerifierPool
from mindrlhf_lite.rewards.reward_function import GIVE_UP_AFTER, RewardFunction
from mindrlhf_lite.types import CompletionView, Outcome


@pytest.mark.parametrize("name", ["hangs_on_bad", "spins_on_bad"])
def test_a_hang_costs_its_own_limit(name):
    """Twelve hangs of three seconds, one after another 36 s, beside completions that are scored meanwhile."""
    start = time.monotonic()
    results = scores(f"user_verifiers.{name}", ["a", "bad", "b"] * 12, timeout_s=3.0)
    assert [s.outcome for s in results] == [Outcome.CORRECT, Outcome.TIMEOUT, Outcome.CORRECT] * 12
    assert time.monotonic() - start < 33


@pytest.mark.parametrize("child", ["a child", "a session", "a daemon"])
def test_what_a_timed_out_verifier_started_dies_with_it(tmp_path, monkeypatch, child):
    monkeypatch.setenv("CHILD_FILE", str(tmp_path / "child"))
    assert scores("user_verifiers.hangs_with_a_child", [child], timeout_s=3.0)[0].outcome is Outcome.TIMEOUT
    wait_for_the_end_of(int((tmp_path / "child").read_text()))


def wait_for_the_end_of(pid):
    deadline = time.monotonic() + 10
    while (found := Process.find(pid)) is not None and found.is_alive():
        assert time.monotonic() < deadline
        time.sleep(0.05)


_SCORES = """from mindrlhf_lite.rewards.pool import VerifierPool
from mindrlhf_lite.types import CompletionView
pool = VerifierPool(["user_verifiers.hangs_with_a_child"], 100, num_workers=1)
pool.score([(CompletionView("a daemon"), "1")], print)
"""


def test_what_a_verifier_started_dies_with_a_killed_rank(tmp_path):
    """Though nobody is left who could end it."""
    file = tmp_path / "child"
    path = f"{ROOT}:{Path(__file__).parent}"
    rank = subprocess.Popen(
        [sys.executable, "-c", _SCORES], env=clean_environment(PYTHONPATH=path, CHILD_FILE=str(file))
    )
    deadline = time.monotonic() + 60
    while not file.is_file() or not file.read_text():
        assert rank.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    rank.kill()
    rank.wait()
    wait_for_the_end_of(int(file.read_text()))


def test_a_verifier_may_wait_for_all_its_children():
    assert scores("user_verifiers.waits_for_its_children", ["a"], timeout_s=20.0)[0].outcome is Outcome.CORRECT


def test_a_verifier_that_exits_costs_one_completion(capfd):
    assert scores("user_verifiers.exits", ["a"])[0].outcome is Outcome.ERROR
    assert "SystemExit: 3" in capfd.readouterr().err


def test_a_verifier_that_dies_is_restarted():
    assert [s.outcome for s in scores("user_verifiers.dies_on_bad", ["a", "bad", "b"])] == [
        Outcome.CORRECT,
        Outcome.ERROR,
        Outcome.CORRECT,
    ]


def test_no_process_is_left_behind():
    pool = VerifierPool(["accuracy_reward"], 10, num_workers=2)
    pids = pool.pids
    assert len(pids) == 2
    pool.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_time_out_is_said(capfd):
    scores("user_verifiers.hangs_on_bad", ["bad"], timeout_s=0.5)
    assert (
        "verifier user_verifiers.hangs_on_bad failed on 1 of 1 completions: timeout: no score within 0.5 s"
        in capfd.readouterr().err
    )


def test_a_hanging_verifier_ends_with_the_run():
    """Also when the run is killed: the system ends the worker."""
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from mindrlhf_lite.rewards.pool import VerifierPool\n"
        "from mindrlhf_lite.types import CompletionView\n"
        "pool = VerifierPool(['user_verifiers.hangs_on_bad'], 60, num_workers=1)\n"
        "print(pool.pids[0], flush=True)\n"
        "pool.score([(CompletionView('bad'), '1')], print)\n"
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


def test_a_pool_that_was_stopped_does_not_take_its_workers_for_hanging():
    """The whole process group sleeps longer than the limit, as on a machine that was suspended."""
    program = (
        "import os, sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from mindrlhf_lite.rewards.pool import VerifierPool\n"
        "from mindrlhf_lite.types import CompletionView\n"
        "pool = VerifierPool(['user_verifiers.waits'], 3, num_workers=1)\n"
        "print(pool.pids[0], flush=True)\n"
        "pool.score([(CompletionView('x'), '1')], lambda number, verdict: print(verdict, flush=True))\n"
        "pool.close()\n"
    )
    run = subprocess.Popen([sys.executable, "-c", program, str(ROOT)], stdout=subprocess.PIPE, text=True)
    worker = int(run.stdout.readline())
    time.sleep(0.3)
    for signal_name in ("SIGSTOP", "SIGCONT"):
        subprocess.run(["kill", f"-{signal_name}", "--", str(run.pid), f"-{worker}"], check=True)
        time.sleep(5.0 if signal_name == "SIGSTOP" else 0)
    assert "CORRECT" in run.communicate(timeout=60)[0]


def test_what_a_first_call_loads_is_on_nobodys_clock(tmp_path, monkeypatch):
    """A slow disk: importing the LaTeX parser takes longer than a score may."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, time\n"
        "class Slow:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'latex2sympy2_extended':\n"
        "            time.sleep(3)\n"
        "sys.meta_path.insert(0, Slow())\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    reward = RewardFunction(["qwen_accuracy_reward"], [1.0], 2.0, num_workers=1)
    result = reward.score([CompletionView("\\boxed{\\sqrt{12}}")], ["2\\sqrt{3}"])["qwen_accuracy_reward"]
    reward.close()
    assert result[0].outcome is Outcome.CORRECT


def test_a_child_that_comes_back_does_not_answer(capfd):
    outcomes = [score.outcome for score in scores("user_verifiers.answers_twice_on_bad", ["a", "bad", "b", "bad", "c"])]
    assert outcomes == [Outcome.CORRECT] * 5 and "out of turn" not in capfd.readouterr().err


def test_a_formula_that_takes_a_built_in_verifiers_time_is_a_wrong_answer(monkeypatch, tmp_path):
    """However many there are in a row. math-verify's stand-in here takes longer than a score may on one text, and all
    of the memory on another.
    """
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, time\n"
        "from importlib.abc import MetaPathFinder\n"
        "import mindrlhf_lite.rewards.verifiers as verifiers\n"
        "agrees = verifiers.agrees\n"
        "def slow(answer, gold, question=''):\n"
        "    if 'slow' in question:\n        time.sleep(9)\n"
        "    if 'large' in question:\n        return bytearray(8 << 30)\n"
        "    return agrees(answer, gold, question)\n"
        "verifiers.agrees = slow\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    reward = RewardFunction(["qwen_accuracy_reward"], [1.0], 0.2, num_workers=1)
    asked = ["slow"] * 3 + ["large"] * (GIVE_UP_AFTER + 1) + ["plain"]
    golds = [str(number) for number in range(len(asked) - 1)] + ["18"]
    found = reward.score([CompletionView("18", prompt=prompt) for prompt in asked], golds)["qwen_accuracy_reward"]
    reward.close()
    assert [score.outcome for score in found] == [Outcome.WRONG] * (len(asked) - 1) + [Outcome.CORRECT]
